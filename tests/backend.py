"""Which implementation of the ops this test process runs, and how much of each table of cases it gets.

A process tests one backend. Environment variables choose it, because Triton's interpreter has to be chosen before
Triton is imported:

`cpu`: the native library for CPUs. No variable is needed.
`reference`: the fallbacks in eager PyTorch. ``EQUIFAST_BACKEND=reference``
`interpreter`: the Triton kernels, interpreted. ``TRITON_INTERPRET=1 EQUIFAST_BACKEND=triton``
`emulation`: the CUDA kernels, compiled for the CPU. ``EQUIFAST_EMULATION=plain EQUIFAST_BACKEND=reference``,
where a sanitizer may take the place of ``plain`` (tests/emulation/build.py), or ``ptx``: the kernels as nvcc compiles
them, in PTX that is executed instruction by instruction; or ``triton``, Triton's kernels likewise.
``python -m tests.ptx`` sets all of their variables, and ``python -m tests.ptx --triton``. ``ttsem`` executes Triton's
kernels in Triton's IR, by the package of that name (tests/ttsem).
`gpu`: the kernels on the first CUDA device. ``EQUIFAST_TEST_DEVICE=cuda``, perhaps with ``EQUIFAST_BACKEND``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equifast import backends, kernels
from equifast.schemas import SCHEMAS

DEVICE = torch.device(os.environ.get("EQUIFAST_TEST_DEVICE", "cpu"))
EMULATED = os.environ.get("EQUIFAST_EMULATION")
#: The variant that the package ttsem executes.
TTSEM = "ttsem"

if EMULATED and os.environ.get("EQUIFAST_BACKEND") != "reference":
    raise RuntimeError("EQUIFAST_EMULATION needs EQUIFAST_BACKEND=reference, whose ops the emulated kernels replace")


def _name() -> str:
    forced = os.environ.get("EQUIFAST_BACKEND")
    if DEVICE.type != "cpu" or forced == "cuda" or (forced == "triton" and not backends.INTERPRETING):
        return "gpu"
    if EMULATED:
        return "emulation"
    return "interpreter" if backends.INTERPRETING else backends.choose("cpu")


NAME = _name()

#: Whether Triton compiles the kernels, or may. It shares a sum among threads as the layout of its terms suggests.
TRITON_COMPILES = EMULATED == "triton" or (NAME == "gpu" and os.environ.get("EQUIFAST_BACKEND") != "cuda")


def by_backend(cpu: Any, small: Any, **own: Any) -> Any:
    """A table of cases: the whole one for the native library, a small one elsewhere, unless a backend has its own.

    An interpreted or emulated kernel is 100 to 1000 times slower than a compiled one. Triton's kernels in PTX get what
    the interpreter gets, since they are compiled anew for each kind of case.
    """
    name = "interpreter" if EMULATED == "triton" else NAME
    return own.get(name, cpu if NAME == "cpu" else small)


def only(*names: str, because: str) -> pytest.MarkDecorator:
    """Marks a law that is about these backends alone, or too slow for all others."""
    return pytest.mark.skipif(NAME not in names, reason=f"not on {NAME}: {because}")


def compiled(because: str = "too many pixels for kernels that are interpreted or emulated") -> pytest.MarkDecorator:
    """Marks a law that needs more work than an interpreted or emulated kernel does in seconds."""
    return only("cpu", "reference", "gpu", because=because)


def over(examples: int, few: Sequence[tuple], **strategies: st.SearchStrategy) -> Callable:
    """States a law over drawn arguments on the native library, and over the few listed ones on any other backend."""
    assert all(len(case) == len(strategies) for case in few)
    if NAME == "cpu":
        return lambda law: settings(max_examples=examples)(given(**strategies)(law))
    return pytest.mark.parametrize(tuple(strategies), few, ids=map(str, range(len(few))))


def ops() -> tuple[str, ...]:
    """The ops that this backend has kernels for; `cpu` and `reference` have all."""
    if NAME == "interpreter" or EMULATED == TTSEM:
        return tuple(kernels.FILES)
    if NAME == "emulation":
        from .emulation.emulated import ops as emulated

        return emulated()
    return tuple(SCHEMAS)


def needs(op: str) -> pytest.MarkDecorator:
    """Marks the laws of an op that not every backend has kernels for."""
    return pytest.mark.skipif(op not in ops(), reason=f"{NAME} has no kernel for {op}")


def install() -> None:
    """Make ``torch.ops.equifast`` run the backend under test, where importing the package is not enough."""
    if NAME == "interpreter":
        from benchmarks.gpu import interpreted

        interpreted.patch()
    if EMULATED == TTSEM:
        from .ttsem.session import install as install_session

        install_session()
    elif NAME == "emulation":
        from .emulation.emulated import install as install_emulation

        install_emulation()
