"""Triton kernels, one file an op, forward and backward. Triton itself is imported at the first call of one.

The file of an op has a function with the op's name and arguments. `device` holds the jitted functions that several
kernels call, `host` what plans and launches them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

from ..schemas import SCHEMAS

_MODULES = {module.name for module in iter_modules(__path__)}


def _file(op: str) -> str | None:
    """The module of an op, or None if it has no kernel: the op's own name, or that of the op it is the gradient of."""
    return next((name for name in (op, op.removesuffix("_backward")) if name in _MODULES), None)


#: The module of each op that has kernels.
FILES = {op: file for op in SCHEMAS if (file := _file(op))}


def load(op: str) -> Callable:
    """The function of an op, which calls its kernels."""
    return getattr(import_module(f"{__name__}.{FILES[op]}"), op)
