"""Finds and loads the native libraries: `_cpu` and `_cuda` (PyTorch operators), `_helper` (facts without tensors).

Nothing here compiles, and nothing raises: a library that can't be used leaves a reason. Importing equifast warns of
the reason once, where nobody asked for plain PyTorch.
"""

import functools
import importlib
import json
import warnings
from pathlib import Path
from types import ModuleType

#: The folder of the package, which holds the libraries.
PACKAGE = Path(__file__).resolve().parents[1]

#: The reason given where nothing was built.
NEVER_BUILT = "this source tree was never built (`pip install -e .` builds it)"


@functools.cache
def build_info() -> dict:
    """What the build recorded about itself. It is empty in a source tree that was never built."""
    try:
        return json.loads((PACKAGE / "_build.json").read_text())
    except (OSError, ValueError):
        return {}


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
        torch.ops.load_library(library)
    except Exception as error:
        built = build_info().get("torch", "an unknown version")
        return f"{name} (built against torch {built}) can't be loaded: {one_line(error)}"
    return None


def load_cpu() -> bool:
    return cpu_error() is None


def warn_if_slow() -> None:
    """Warn if `_cpu` was looked for in vain, unless EQUIFAST_NATIVE=0 asked for a build without it."""
    error = _load_cpu() if _load_cpu.cache_info().currsize else None
    if error and build_info().get("reason") != "EQUIFAST_NATIVE=0":
        slow = "CPU tensors in plain PyTorch (the same results, several times slower)"
        advice = "EQUIFAST_BACKEND=reference asks for that; `python -m equifast.info` tells more."
        warnings.warn(f"equifast in {PACKAGE} runs {slow}: {error}. {advice}", RuntimeWarning, stacklevel=3)


@functools.cache
def helper() -> ModuleType | None:
    """The compiled `_helper` module, or None where it is absent or belongs to another Python."""
    try:
        return importlib.import_module("equifast._helper")
    except ImportError:
        return None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
