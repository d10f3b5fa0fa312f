"""Finds and loads the native libraries: `_cpu` (PyTorch operators) and `_helper` (facts that need no tensor).

Nothing here compiles, and nothing raises: a library that can't be used leaves a reason.
"""

import functools
import importlib
import json
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parent


@functools.cache
def build_info() -> dict:
    """What the build wrote down about itself; empty in a source tree that was never built."""
    try:
        return json.loads((PACKAGE / "_build.json").read_text())
    except (OSError, ValueError):
        return {}


def cpu_error() -> str | None:
    """Loads `_cpu` on the first call. None once its operators are registered, else why they are not."""
    return _forgone or _load_cpu()


_forgone: str | None = None


def forgo_cpu(reason: str) -> None:
    """From now on `_cpu` stays unloaded: its schemas have been defined without it, and can't be twice."""
    global _forgone
    _forgone = cpu_error() if _load_cpu.cache_info().currsize else reason


@functools.cache
def _load_cpu() -> str | None:
    library = PACKAGE / "_cpu.so"
    if not library.exists():
        reason = build_info().get("reason", "this source tree was never built")
        return f"{library.name} was not built: {reason}"
    try:
        import torch

        torch.ops.load_library(library)
    except Exception as error:
        built = build_info().get("torch", "an unknown version")
        return f"{library.name} (built against torch {built}) can't be loaded: {_one_line(error)}"
    return None


def load_cpu() -> bool:
    return cpu_error() is None


@functools.cache
def helper() -> ModuleType | None:
    """The compiled `_helper` module, or None where it is absent or belongs to another Python."""
    try:
        return importlib.import_module("equifast._helper")
    except ImportError:
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
