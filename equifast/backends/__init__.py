"""Which implementation serves each device type, and why another can't.

``EQUIFAST_BACKEND`` names one backend for all ops. Its default, ``auto``, takes the first that is usable. A backend
that was asked for by name is never replaced by another: where it can't run, the ops raise the reason.
Where ``cuda`` and ``triton`` are both usable and neither is forced, ``selection`` decides for each call.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from . import gpus, native

#: Whether Triton interprets kernels, on tensors of any device. Triton reads the variable as it is imported, and so does
#: this module.
INTERPRETING = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")

#: The oldest version of Triton that compiles the kernels.
OLDEST_TRITON = (3, 6)

#: The oldest compute capability that Triton supports.
OLDEST_TRITON_GPU = (8, 0)


@dataclass(frozen=True)
class Backend:
    name: str
    device_types: tuple[str, ...] | None  # None: any
    probe: Callable[[], str | None]  # why this machine or build can't run it, or None

    def why_not(self, device_type: str) -> str | None:
        """None where this backend can run on tensors of ``device_type``, else the reason."""
        if self.device_types is not None and device_type not in self.device_types:
            return f"it serves {' and '.join(self.device_types)} tensors, not {device_type}"
        return self.probe()


def triton_error() -> str | None:
    """Why Triton can't run kernels here, or None. Triton is not imported for that."""
    import torch

    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "triton is not installed"
    if tuple(map(int, version.split(".")[:2])) < OLDEST_TRITON:
        return f"triton {version} is installed, {'.'.join(map(str, OLDEST_TRITON))} or newer is needed"
    if INTERPRETING:
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA (TRITON_INTERPRET=1 interprets kernels on CPUs)"
    return _asking_gpus(_triton_gpu_error)


def _triton_gpu_error() -> str | None:
    oldest = "{}.{}".format(*OLDEST_TRITON_GPU)
    for major, minor in sorted(gpus.capabilities()):
        if (major, minor) < OLDEST_TRITON_GPU:
            return f"Triton needs compute capability {oldest} or newer, and a GPU here has {major}.{minor}"
    return None


def cuda_error() -> str | None:
    """Why the CUDA library can't run here, or None."""
    built = native.build_info().get("cuda", {})
    return native.cuda_error() or _asking_gpus(lambda: gpus.library_problem(built["nvcc"], built["archs"]))


def _asking_gpus(probe: Callable[[], str | None]) -> str | None:
    """The answer of a probe that needs a GPU, or why it can't be asked."""
    import torch

    if not torch.cuda.device_count():
        return "torch finds no CUDA device"
    try:
        return probe()
    except RuntimeError as error:  # torch's, where it can't start CUDA
        return f"CUDA can't be started: {native.one_line(error)}"


# In order of preference.
BACKENDS = (
    Backend("cuda", ("cuda",), cuda_error),
    Backend("triton", ("cuda", "cpu") if INTERPRETING else ("cuda",), triton_error),
    Backend("cpu", ("cpu",), native.cpu_error),
    Backend("reference", None, lambda: None),
)


def choose(device_type: str) -> str:
    """Name of the backend for ``device_type``.

    Raises ValueError if ``EQUIFAST_BACKEND`` names no backend, RuntimeError if it names one that can't run.
    """
    forced = _forced()
    if forced == "auto":
        return next(backend.name for backend in BACKENDS if backend.why_not(device_type) is None)
    for backend in BACKENDS:
        if backend.name == forced:
            if reason := backend.why_not(device_type):
                raise RuntimeError(f"EQUIFAST_BACKEND={forced} can't run {device_type} tensors: {reason}")
            return forced
    choices = ", ".join(["auto", *(backend.name for backend in BACKENDS)])
    raise ValueError(f"EQUIFAST_BACKEND: expected one of {choices}, got '{forced}'")


def contenders(device_type: str) -> tuple[str, ...]:
    """The backends that share the ops of a device type: the chosen one, or ``cuda`` and ``triton`` if both can run.

    A backend that is forced does not share.
    """
    chosen = choose(device_type)
    if chosen != "cuda" or _forced() != "auto":
        return (chosen,)
    return tuple(b.name for b in BACKENDS if b.name in ("cuda", "triton") and b.why_not(device_type) is None)


def _forced() -> str:
    return os.environ.get("EQUIFAST_BACKEND") or "auto"


def available() -> dict[str, str | None]:
    """Each backend with None where this machine and build can run it, else the reason."""
    return {backend.name: backend.probe() for backend in BACKENDS}
