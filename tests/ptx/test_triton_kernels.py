"""Triton's kernels as a whole: how they are compiled, and that all of them have run."""

from __future__ import annotations

import importlib
import re

import pytest

from equifast import kernels

from ..emulation import emulated
from . import compiled
from .executor import library
from .program import Program, table
from .runs import averaged, convolved, moved, scored, summed
from .test_kernels import are_all_laws, has_laws, used
from .triton_gpu import PtxGpu

#: Sums and products that may become one instruction, which rounds once.
CONTRACTED = re.compile(r"(add|sub|mul)\.(f32|f64)")


@pytest.fixture(scope="module")
def gpu() -> PtxGpu:
    """With a kernel of each kind compiled, if nothing else was yet."""
    for run in (moved, scored, convolved, averaged, summed):
        run()
    return emulated.GPUS[0]


@pytest.fixture(scope="module")
def by_name() -> dict:
    """All of the package's kernels, by the names of their functions."""
    from equifast.kernels.host.launch import KERNELS

    for file in set(kernels.FILES.values()):
        importlib.import_module(f"{kernels.__name__}.{file}")
    return {kernel.function.__name__: kernel for kernel in KERNELS.values()}


def test_what_has_to_round_twice_is_not_left_to_be_contracted(gpu, by_name):
    """ptxas may make one instruction of a product and a sum that don't say how they round."""
    checked = {entry.name for entry in gpu.entries if not by_name[entry.name].fuse_multiply_add}
    assert {"_act_kernel", "_orbit_average_kernel"} <= checked
    for entry in gpu.entries:
        if entry.name in checked:
            assert not [i for i in entry.program.entry.instructions if CONTRACTED.fullmatch(i.opcode)]


def test_every_kernel_has_run(request, gpu, by_name):
    if not has_laws(request):
        pytest.skip("the laws of the ops aren't part of this run")
    assert set(by_name) - {gpu.entries[place].name for place in gpu.ran} == set()


def test_the_executor_knows_no_instruction_that_no_kernel_needs(request, gpu):
    """Neither one that Triton compiles nor one that nvcc does."""
    if not are_all_laws(request):
        pytest.skip("some of Triton's kernels aren't compiled in this run")
    if reason := compiled.blocker():
        pytest.skip(reason)
    programs: list[Program] = [entry.program for entry in gpu.entries]
    programs += [file.entry(name) for file in compiled.compiled() for name in file.lines]
    known = {each.index: (opcode, each.written) for opcode, all_ in table(library()).items() for each in all_}
    assert {known[index] for index in known.keys() - used(programs)} == set()
