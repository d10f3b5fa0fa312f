"""nvcc's kernels as a whole: the executor knows all that they need, and all of them have run."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from ..emulation import emulated
from .program import OPERANDS, Program

#: Numbers of an instruction in a program: which it is, its guard, and its operands.
NUMBERS = 3 + OPERANDS


def used(programs: Iterable[Program]) -> set[int]:
    """The instructions of programs, as the machine numbers them."""
    return {program.codes[i] for program in programs for i in range(0, len(program.codes), NUMBERS)}


def has_laws(request: pytest.FixtureRequest) -> bool:
    """Whether laws of the ops are part of this run, where they come first."""
    return any(item.path.parent.name == "ops" for item in request.session.items)


def are_all_laws(request: pytest.FixtureRequest) -> bool:
    """Whether all of them are."""
    options = ("markexpr", "keyword", "plugins")
    return has_laws(request) and not any(request.config.getoption(option) for option in options)


def test_the_executor_knows_the_instructions_of_all_kernels():
    programs = [entry.program for entry in emulated.LAUNCHES[0].entries.values()]
    assert len(used(programs)) > 100


def named(kernel: str) -> tuple[str, str]:
    """The name of a kernel without the arguments of its template, and the type of its numbers."""
    name, numbers = re.match(
        r"(?:void )?equifast::cuda::(\w+)(?:<.*?\b(half|bfloat16|float|double)\b)?", kernel
    ).groups()
    return name, numbers or ""


def test_every_kernel_has_run(request):
    """By the laws of the ops: all kernels by all laws, and each kind of kernel with each type of numbers by a part of
    them."""
    if not has_laws(request):
        pytest.skip("the laws of the ops aren't part of this run")
    launches = emulated.LAUNCHES[0]
    kinds = (lambda kernel: kernel) if are_all_laws(request) else named
    assert set(map(kinds, launches.entries)) - set(map(kinds, launches.ran)) == set()
