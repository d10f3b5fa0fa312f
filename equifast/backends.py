"""Which implementation serves each device type, and why another can't.

`EQUIFAST_BACKEND` names one backend for every operator (`auto`, the default, takes the first usable). A
backend asked for by name is never replaced by another: where it can't run, the operators raise its reason.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from equifast import native


@dataclass(frozen=True)
class Backend:
    name: str
    device_types: tuple[str, ...] | None  # None: any
    probe: Callable[[], str | None]  # why this machine or build can't run it, or None

    def why_not(self, device_type: str) -> str | None:
        """None where this backend can run on tensors of `device_type`, else the reason."""
        if self.device_types is not None and device_type not in self.device_types:
            return f"it serves {' and '.join(self.device_types)} tensors, not {device_type}"
        return self.probe()


# In order of preference.
BACKENDS = (
    Backend("cpu", ("cpu",), native.cpu_error),
    Backend("reference", None, lambda: None),
)


def choose(device_type: str) -> str:
    """Name of the backend for `device_type`.

    Raises ValueError if `EQUIFAST_BACKEND` names no backend, RuntimeError if it names one that can't run.
    """
    forced = os.environ.get("EQUIFAST_BACKEND") or "auto"
    if forced == "auto":
        return next(backend.name for backend in BACKENDS if backend.why_not(device_type) is None)
    for backend in BACKENDS:
        if backend.name == forced:
            if reason := backend.why_not(device_type):
                raise RuntimeError(f"EQUIFAST_BACKEND={forced} can't run {device_type} tensors: {reason}")
            return forced
    choices = ", ".join(["auto", *(backend.name for backend in BACKENDS)])
    raise ValueError(f"EQUIFAST_BACKEND: expected one of {choices}, got '{forced}'")


def available() -> dict[str, str | None]:
    """Each backend with None where this machine and build can run it, else the reason."""
    return {backend.name: backend.probe() for backend in BACKENDS}
