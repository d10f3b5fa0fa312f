"""The kernels as a whole: the executor knows all that they need and nothing else, and all of them have run."""

from __future__ import annotations

import re

import pytest

from ..emulation import emulated
from .executor import library
from .program import Program, table


@pytest.fixture(scope="module")
def programs() -> list[Program]:
    return [entry.program for entry in emulated.LAUNCHES[0].entries.values()]


def test_the_executor_knows_the_instructions_of_all_kernels_and_no_others(programs):
    used = {program.codes[i] for program in programs for i in range(0, len(program.codes), 19)}
    known = {each.index: (opcode, each.written) for opcode, all_ in table(library()).items() for each in all_}
    assert {known[index] for index in known.keys() - used} == set()


def named(kernel: str) -> tuple[str, str]:
    """The name of a kernel without the arguments of its template, and the type of its numbers."""
    name, numbers = re.match(
        r"(?:void )?equifast::cuda::(\w+)(?:<.*?\b(half|bfloat16|float|double)\b)?", kernel
    ).groups()
    return name, numbers or ""


def test_every_kernel_has_run(request):
    """By the laws of the ops, which come first where they are part of the same run: all kernels by all laws, and each
    kind of kernel with each type of numbers by a part of them.
    """
    items = [item for item in request.session.items if item.path.parent.name == "ops"]
    if not items:
        pytest.skip("the laws of the ops aren't part of this run")
    launches = emulated.LAUNCHES[0]
    all_laws = not request.config.getoption("markexpr") and not request.config.getoption("keyword")
    kinds = (lambda kernel: kernel) if all_laws else named
    assert set(map(kinds, launches.entries)) - set(map(kinds, launches.ran)) == set()
