"""The kernels as a whole: the executor knows all that they need and nothing else, and all of them have run."""

from __future__ import annotations

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


def test_every_kernel_has_run(request):
    """By the tests of the ops, which come first where they are part of the same run."""
    if not any("/ops/" in item.nodeid for item in request.session.items):
        pytest.skip("the tests of the ops aren't part of this run")
    launches = emulated.LAUNCHES[0]
    assert set(launches.entries) - launches.ran == set()
