"""Finds and loads the native libraries of PyTorch operators, `_cpu` and `_cuda`.

Nothing here compiles, and nothing raises: a library that can't be used leaves a reason. Importing equifast warns of
the reason once, where nobody asked for plain PyTorch.
"""

import functools
import json
import warnings
from pathlib import Path

from . import library_file

#: The folder of the package, which holds the libraries.
PACKAGE = Path(__file__).resolve().parents[1]

#: The reason given where nothing was built.
NEVER_BUILT = "this source tree was never built (`pip install -e .` builds it)"


@functools.cache
def build_info() -> dict:
    """What the build recorded about itself. It is empty in a source tree that was never built."""
    try:
        facts = json.loads((PACKAGE / "_build.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def cpu_error() -> str | None:
    """Load `_cpu` at the first call. None if its ops are registered, else the reason why they are not."""
    return _forgone or _load_cpu()


#: Why `_cpu` is not to be loaded, if so.
_forgone: str | None = None


def forgo_cpu(reason: str) -> None:
    """Never load `_cpu` from now on: Python has defined its schemas, and they can't be defined twice."""
    global _forgone
    _forgone = cpu_error() if _load_cpu.cache_info().currsize else reason


@functools.cache
def _load_cpu() -> str | None:
    return _load("_cpu.so", build_info().get("reason"))


@functools.cache
def cuda_error() -> str | None:
    """Load `_cuda` at the first call. None if ``torch.ops.equifast_cuda`` is there, else the reason why it is not."""
    return _load("_cuda.so", build_info().get("reason") or build_info().get("cuda", {}).get("reason"), needs_cuda=True)


def _load(name: str, reason: str | None, needs_cuda: bool = False) -> str | None:
    """Load a library. None, or why it can't be used; ``reason``: why the build left it out."""
    library = PACKAGE / name
    if not library.exists():
        return f"{name} was not built: {reason or NEVER_BUILT}"
    try:
        import torch

        if needs_cuda:
            cuda, nvcc = torch.version.cuda, build_info().get("cuda", {}).get("nvcc")
            if cuda is None:
                return f"torch {torch.__version__} was built without CUDA"
            if nvcc and nvcc.split(".")[0] != cuda.split(".")[0]:
                return f"{name} was built by nvcc {nvcc}, and torch {torch.__version__} has CUDA {cuda}"
        wrong = library_file.problem(library)
        if wrong is None:
            torch.ops.load_library(library)
    except Exception as error:
        wrong = one_line(error.__cause__ or error)  # torch says that it couldn't load; the cause says why
    built = build_info().get("torch", "an unknown version")
    return f"{name} (built against torch {built}) can't be loaded: {wrong}" if wrong else None


def load_cpu() -> bool:
    return cpu_error() is None


def warn_if_slow() -> None:
    """Warn of libraries that were looked for in vain, unless EQUIFAST_NATIVE=0 asked for a build without them.

    That is `_cpu` always, and `_cuda` if it is there and torch has CUDA.
    """
    wrong = []
    if _load_cpu.cache_info().currsize and (error := _load_cpu()):
        wrong.append(f"CPU tensors in plain PyTorch (the same results, several times slower): {error}")
    if cuda_error.cache_info().currsize and (PACKAGE / "_cuda.so").exists() and (error := cuda_error()):
        import torch

        if torch.version.cuda is not None:
            wrong.append(f"CUDA tensors without its kernels in CUDA C++: {error}")
    if wrong and build_info().get("reason") != "EQUIFAST_NATIVE=0":
        advice = "`python -m equifast.info` tells more, and EQUIFAST_BACKEND names the backend that you want."
        text = f"equifast in {PACKAGE} runs {'; and '.join(wrong)}. {advice}"
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
