"""Mistakes planted in what Triton compiles: each is caught by the check that is there for it."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
import torch

import equifast
from benchmarks.compiled.triton_calls import tf32
from equifast import reference

from ..cases import assert_near, assert_near_overall, assert_same, rand
from ..emulation import emulated
from .launches import Entry
from .runs import DIVIDE_BY_ZERO, averaged, caught, convolved, edited, moved, scored

ACT, SCORES, AVERAGE = "_act_kernel", "_orbit_scores_kernel", "_orbit_average_kernel"
CONVOLVE, COPYING = "_orbit_conv2d_grad_input_kernel", "_orbit_conv2d_kernel"


def copied() -> tuple[torch.Tensor, torch.Tensor]:
    """A convolution in TF32, of which these numbers are: its loop copies ahead to shared memory."""
    x, weight = (rand(*shape, seed=shape[0]).half().float() for shape in ((2, 3, 15, 15), (16, 3, 7, 7)))
    with tf32(True):
        return tuple(library.orbit_conv2d(x, weight, group="C4", stride=2) for library in (equifast, reference))


RUNS = {ACT: moved, SCORES: scored, CONVOLVE: convolved, COPYING: copied, AVERAGE: averaged}

#: How it is told that somebody reads too early or writes too late.
UNORDERED = "no barrier between|no thread of the block has written|a copy writes that nobody has waited for"


@functools.cache
def places_of(kernel: str) -> list[int]:
    """Where the list of all that was compiled has what the run of a kernel executes."""
    gpu = emulated.GPUS[0]
    before, gpu.ran = gpu.ran, set()
    RUNS[kernel]()
    executed, gpu.ran = gpu.ran, before | gpu.ran
    return [place for place in sorted(executed) if gpu.entries[place].name == kernel]


def planted(kernel: str, pattern: str, replacement: str, only: int | None = None) -> AbstractContextManager[int]:
    """A mistake in all that the run of a kernel executes of it, as `edited` makes it."""
    return edited(emulated.GPUS[0].entries, places_of(kernel), pattern, replacement, only)


def test_without_mistakes_all_pass():
    assert_same(*moved())
    for run in RUNS.values():
        assert_near_overall(*run())


@pytest.mark.parametrize("kernel", RUNS)
def test_these_runs_execute_the_kernels_that_are_edited(kernel):
    with planted(kernel, r"\tret;", DIVIDE_BY_ZERO):
        caught(RUNS[kernel], "divides by zero")


def test_a_fused_multiply_add_changes_bits():
    pattern = r"mul\.rn\.f32 \t(%r\d+), (%r\d+), (%r\d+);\s+add\.rn\.f32 \t(%r\d+), (%r\d+), \1;"
    with planted(ACT, pattern, r"fma.rn.f32 \4, \2, \3, \5;"):
        found, expected = moved()
        assert_near(found, expected)
        assert not torch.equal(found, expected)


def test_a_swapped_lane_changes_a_sum():
    with planted(SCORES, r"(shfl\.sync\.bfly\.b32 \t%r\d+, %r\d+), 2,", r"\1, 1,"):
        found, expected = scored()
        with pytest.raises(AssertionError):
            assert_near(found, expected)


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"(ldmatrix\S+) {(%r\d+), (%r\d+), (%r\d+), (%r\d+)}", r"\1 {\2, \4, \3, \5}"),
        (r"(mma\S+\s+{[^}]*}, {[^}]*}), { (%r\d+), (%r\d+) }", r"\1, { \3, \2 }"),
    ],
)
def test_swapped_operands_change_a_product(pattern, replacement):
    with planted(CONVOLVE, pattern, replacement):
        found, expected = convolved()
        with pytest.raises(AssertionError):
            assert_near_overall(found, expected)


def guarded(entry: Entry, guard: str) -> Iterator[bool]:
    """For each guard in an entry, whether something has arrived in shared memory before it, or does so by it."""
    reached = False
    for line in entry.file.lines[entry.name][1]:
        reached |= re.search(r"st\.shared|cp\.async\.wait_group", line) is not None
        if re.search(guard, line):
            yield reached


BARRIER, WAIT = r"bar\.sync \t0;", r"cp\.async\.wait_group \t\d+;"


@pytest.mark.parametrize(
    ("kernel", "guard"), [(SCORES, BARRIER), (CONVOLVE, BARRIER), (COPYING, BARRIER), (COPYING, WAIT)]
)
def test_every_barrier_that_is_missing_is_caught(kernel, guard):
    """Those that the run comes to, once something has arrived in shared memory: what is before guards nothing."""
    entries = [emulated.GPUS[0].entries[place] for place in places_of(kernel)]
    lines = [line for entry in entries for line in guarded(entry, guard)]
    executed, missed = [], []
    for i in (i for i, guards in enumerate(lines) if guards):
        with planted(kernel, guard, DIVIDE_BY_ZERO, only=i), contextlib.suppress(RuntimeError):
            RUNS[kernel]()
            continue
        executed.append(i)
        with planted(kernel, guard, "", only=i):
            try:
                RUNS[kernel]()
                missed.append(i)
            except RuntimeError as error:
                assert re.search(UNORDERED, str(error))
    assert executed and not missed


def test_a_store_one_beyond_a_tensor_is_an_error():
    with planted(ACT, r"(st\.global\.b32) \[ (%rd\d+) \+ 0 \]", r"\1 [ \2 + 4 ]"):
        caught(moved, r"writes 4 bytes at 0x[0-9a-f]+, \d+ bytes (after|before) the \d+ bytes of the nearest tensor")


def test_a_copy_from_beyond_a_tensor_is_an_error():
    with planted(COPYING, r"(cp\.async\.\S+ \[ %r\d+ \+ 0 \], \[ %rd\d+) \+ 0 \]", r"\1 + 1048576 ]"):
        caught(copied, r"reads \d+ bytes at 0x[0-9a-f]+, \d+ bytes after the \d+ bytes of the nearest tensor")


def test_a_bound_that_is_not_checked_is_an_error():
    with planted(ACT, r"@%p\d+ (st\.global)", r"\1"):
        caught(moved, r"writes 4 bytes at 0x[0-9a-f]+, \d+ bytes (after|before) the \d+ bytes of the nearest tensor")
