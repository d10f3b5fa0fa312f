"""Mistakes planted in the PTX of real kernels: each is caught by the check that is there for it.

Before a mistake is planted the kernel passes the same check, so it is the mistake that is caught.
"""

from __future__ import annotations

import contextlib
import re
from contextlib import AbstractContextManager

import pytest
import torch

from ..cases import assert_near, assert_near_overall, assert_same
from ..emulation import emulated
from .runs import DIVIDE_BY_ZERO, averaged, caught, convolved, edited, moved, scored, summed


def planted(kernel: str, pattern: str, replacement: str, only: int | None = None) -> AbstractContextManager[int]:
    """A mistake in a kernel, as `edited` makes it."""
    entries = emulated.LAUNCHES[0].entries
    (name,) = [name for name in entries if f"::{kernel}(" in name]
    return edited(entries, [name], pattern, replacement, only)


ACT = "act_kernel<float, false>"
SCORES = "orbit_scores_kernel<float>"
CONVOLVE = "convolve_kernel<equifast::cuda::MatrixProduct<equifast::cuda::half, 2>, true>"
AVERAGE = "orbit_average_kernel<float, false>"
SUM = "sum_parts_kernel<float>"

RUNS = {ACT: moved, SCORES: scored, CONVOLVE: convolved, AVERAGE: averaged, SUM: summed}


def test_without_mistakes_all_pass():
    assert_same(*moved())
    for run in RUNS.values():
        assert_near_overall(*run())


@pytest.mark.parametrize("kernel", RUNS)
def test_these_runs_execute_the_kernels_that_are_edited(kernel):
    with planted(kernel, r"\tret;", DIVIDE_BY_ZERO):
        caught(RUNS[kernel], "divides by zero")


def test_a_fused_multiply_add_changes_bits():
    """So every image is compared bit for bit: within a tolerance, nobody would notice."""
    pattern = r"mul\.rn\.f32 +\t?(%f\d+), (%f\d+), (%f\d+);\s+(?=add\.rn\.f32)add\.rn\.f32 +\t?(%f\d+), \1, (%f\d+);"
    with planted(ACT, pattern, r"fma.rn.f32 \4, \2, \3, \5;"):
        found, expected = moved()
        assert_near(found, expected)
        assert not torch.equal(found, expected)


def test_a_swapped_lane_changes_a_sum():
    with planted(SCORES, r"mov\.u32 \t(%r\d+), 2;(\s+shfl)", r"mov.u32 \t\1, 1;\2"):
        found, expected = scored()
        with pytest.raises(AssertionError):
            assert_near(found, expected)


def test_a_shuffle_that_some_lanes_never_reach_is_an_error():
    with planted(SCORES, r"(shfl\.sync)", r"setp.eq.s32 %p1, %r1, 0;\n@%p1 ret;\n\1", only=0):
        caught(scored, "shfl|waits for threads of its warp that never come there")


@pytest.mark.parametrize("swap", [r"{\2,\1,\3,\4}, {\5,\6}", r"{\1,\3,\2,\4}, {\5,\6}", r"{\1,\2,\3,\4}, {\6,\5}"])
def test_swapped_operands_change_a_product(swap):
    register = r"(%r\d+)"
    four, two = ",".join([register] * 4), ",".join([register] * 2)
    with planted(CONVOLVE, rf"{{{four}}}, {{{two}}}", swap):
        found, expected = convolved()
        with pytest.raises(AssertionError):
            assert_near_overall(found, expected)


@pytest.mark.parametrize("kernel", [SCORES, CONVOLVE, AVERAGE, SUM])
def test_every_barrier_that_is_missing_is_caught(kernel):
    """By the check of the memory that it guards. Barriers that the run doesn't come to are left out. Each of these runs
    goes around its loops twice: a barrier at the top of a loop guards nothing when it is first passed.
    """
    barrier = r"bar\.sync \t0;"
    with planted(kernel, barrier, r"\g<0>") as count:
        pass
    executed, missed = [], []
    for i in range(count):
        with planted(kernel, barrier, DIVIDE_BY_ZERO, only=i), contextlib.suppress(RuntimeError):
            RUNS[kernel]()
            continue
        executed.append(i)
        with planted(kernel, barrier, "", only=i):
            try:
                RUNS[kernel]()
                missed.append(i)
            except RuntimeError as error:
                assert re.search("no barrier between|no thread of the block has written", str(error))
    assert executed and not missed


def test_a_barrier_that_some_threads_never_reach_is_an_error():
    barrier = r"(bar\.sync)"
    with planted(SCORES, barrier, r"mov.u32 %r1, %tid.x;\nsetp.ge.s32 %p1, %r1, 32;\n@%p1 ret;\n\1", only=0):
        caught(scored, r"thread 0 of block 0 waits at a barrier, but thread \d+ returned")


def test_a_barrier_that_a_part_of_a_warp_never_reaches_is_an_error():
    barrier = r"(bar\.sync)"
    with planted(SCORES, barrier, r"mov.u32 %r1, %tid.x;\nsetp.eq.s32 %p1, %r1, 5;\n@%p1 ret;\n\1", only=0):
        caught(
            scored, r"thread 0 of block 0 waits for threads of its warp that never come there\nin line \d+: bar\.sync"
        )


@pytest.mark.parametrize(("access", "what"), [("st", "writes"), ("ld", "reads")])
def test_an_address_beyond_a_tensor_is_an_error_that_tells_where(access, what):
    with planted(ACT, rf"({access}\.global\.f32 .*)\[(%rd\d+)(?:\+0)?\]", r"\1[\2+1048576]"):
        said = caught(moved, rf"thread \d+ of block 0 {what} 4 bytes at 0x[0-9a-f]+")
        assert re.search(rf"in line \d+: {access}\.global\.f32", said) and "act_kernel" in said


def test_a_store_one_beyond_a_tensor_is_an_error():
    """The last thread's, by as little as one element."""
    with planted(ACT, r"(st\.global\.f32 .*)\[(%rd\d+)\]", r"\1[\2+4]"):
        caught(moved, r"writes 4 bytes at 0x[0-9a-f]+, 0 bytes after the \d+ bytes of the nearest tensor")


def test_a_misaligned_address_is_an_error():
    with planted(ACT, r"(st\.global\.f32 .*)\[(%rd\d+)\]", r"\1[\2+2]"):
        caught(moved, "writes 4 bytes at 0x[0-9a-f]+, which is not a multiple of as many")


def test_an_address_beyond_shared_memory_is_an_error():
    with planted(SCORES, r"(st\.shared\.f32 .*)\[(%r\d+)\]", r"\1[\2+1048576]"):
        caught(scored, r"writes 4 bytes at 0x[0-9a-f]+, \d+ bytes after the \d+ bytes of shared memory")


def test_an_address_beyond_the_argument_is_an_error():
    with planted(ACT, r"(ld\.param\.u64 .*)\+(\d+)\]", r"\1+1048576]"):
        caught(moved, "reads 8 bytes at 0x[0-9a-f]+, [0-9]+ bytes after the [0-9]+ bytes of the kernel's argument")


def test_shared_memory_that_nobody_wrote_is_an_error():
    with planted(SCORES, r"st\.shared\.f32 .*;", ""):
        caught(scored, "of shared memory, which no thread of the block has written")


def test_a_bound_that_is_not_checked_is_an_error():
    """Threads that have no number of their own then read beyond the parts that others left."""
    with planted(SUM, r"setp\.ge\.s64 \t(%p\d+), .*;", r"mov.pred \1, 0;"):
        caught(summed, r"reads 4 bytes at 0x[0-9a-f]+, \d+ bytes after the \d+ bytes of the nearest tensor")


def test_a_loop_without_an_end_is_an_error():
    with planted(SCORES, r"\tret;", "$L__forever:\n\tbra.uni $L__forever;"):
        caught(scored, "has executed 2\\^26 instructions and no barrier")


def test_a_kernel_without_ptx_is_an_error(monkeypatch):
    launches = emulated.LAUNCHES[0]
    (name,) = [name for name in launches.entries if ACT in name]
    monkeypatch.delitem(launches.entries, name)
    caught(moved, re.escape(f"no PTX of {name}"))


def test_an_argument_of_another_size_is_an_error():
    with planted(ACT, r"_param_0\[(\d+)\]", r"_param_0[8\1]"):
        caught(moved, "bytes of arguments")
