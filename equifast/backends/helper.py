"""The library `_helper`: facts about the kernels for CPUs, without torch. csrc/helper.cpp has its functions."""

from __future__ import annotations

import ctypes
import functools

from . import library_file
from .native import NEVER_BUILT, PACKAGE, build_info


@functools.cache
def library() -> ctypes.CDLL:
    """The library.

    Raises:
        OSError: it is absent, or can't be loaded.
    """
    path = PACKAGE / "_helper.so"
    if not path.exists():
        raise OSError(f"{path.name} was not built: {build_info().get('reason') or NEVER_BUILT}")
    if wrong := library_file.cut_short(path):
        raise OSError(f"{path.name}: {wrong}")
    loaded = ctypes.CDLL(str(path))
    for name in ("isa", "supported_isas", "isas_built"):
        getattr(loaded, f"equifast_{name}").restype = ctypes.c_char_p
    return loaded


def isa() -> str:
    """The variant of the CPU kernels in use.

    Raises:
        RuntimeError: EQUIFAST_CPU_CAPABILITY names none of those that this machine runs.
    """
    error = ctypes.c_char_p()
    name = library().equifast_isa(ctypes.byref(error))
    if name is None:
        raise RuntimeError((error.value or b"").decode())
    return name.decode()


def supported_isas() -> list[str]:
    """The built variants that this CPU can run, slowest first."""
    return library().equifast_supported_isas().decode().split(",")


def isas_built() -> list[str]:
    """The variants compiled in, slowest first."""
    return library().equifast_isas_built().decode().split(",")
