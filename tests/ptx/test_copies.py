"""Copies to shared memory that go on while a thread does: what arrives, and who may read it when."""

from __future__ import annotations

import pytest
import torch

from ..cases import assert_same
from .syntax import PtxError
from .test_together import execute

#: Thread i copies a word from %rd0 to shared memory, as %r3, and then reads that of thread i ^ distance.
COPY = """
mov.u32 %r1, memory;
shl.b32 %r2, %r0, 2;
add.s32 %r3, %r1, %r2;
mul.wide.u32 %rd9, %r0, 4;
add.s64 %rd0, %rd0, %rd9;
add.s64 %rd1, %rd1, %rd9;
mov.u32 %r8, {bytes};
{before}
cp.async.ca.shared.global [ %r3 + 0 ], [ %rd0 + {offset} ], 0x4, %r8;
{between}
xor.b32 %r4, %r2, {distance};
add.s32 %r6, %r1, %r4;
ld.shared.u32 %r7, [%r6];
st.global.u32 [%rd1], %r7;
"""

WAIT = "cp.async.commit_group;\ncp.async.wait_group 0;\n"
NOBODY_WAITED = "reads 4 bytes at 0x[0-9a-f]+ of shared memory, which a copy writes that nobody has waited for"
NO_BARRIER = "which another thread wrote with no barrier between"


def copied(between: str, *, before: str = "", distance: int = 0, bytes: int = 4, offset: int = 0) -> torch.Tensor:
    source, out = torch.arange(1, 65, dtype=torch.int32) * 0x01010101, torch.full((64,), -1, dtype=torch.int32)
    text = COPY.format(between=between, before=before, distance=4 * distance, bytes=bytes, offset=offset)
    execute(text.strip().splitlines(), source, out, threads=64, shared=256)
    return out


WORDS = torch.arange(1, 65, dtype=torch.int32) * 0x01010101


@pytest.mark.parametrize("bytes", [0, 1, 2, 3, 4])
def test_bytes_are_copied_and_zeros_after_them(bytes):
    assert_same(copied(WAIT, bytes=bytes), WORDS & ((1 << 8 * bytes) - 1))


@pytest.mark.parametrize("distance", [1, 32])
def test_others_read_what_was_copied_after_a_barrier(distance):
    assert_same(copied(f"{WAIT}bar.sync 0;", distance=distance), WORDS[torch.arange(64) ^ distance])


@pytest.mark.parametrize(
    ("between", "distance", "wrong"),
    [
        ("", 0, NOBODY_WAITED),
        ("bar.sync 0;", 0, NOBODY_WAITED),
        ("cp.async.commit_group;", 0, NOBODY_WAITED),
        ("cp.async.wait_group 0;", 0, NOBODY_WAITED),  # which is for groups that were committed
        ("cp.async.commit_group;\ncp.async.wait_group 1;", 0, NOBODY_WAITED),
        ("cp.async.commit_group;\nbar.sync 0;\ncp.async.wait_group 0;", 1, NO_BARRIER),
        (WAIT, 1, NO_BARRIER),
    ],
)
def test_what_is_read_too_early_is_an_error(between, distance, wrong):
    with pytest.raises(PtxError, match=wrong):
        copied(between, distance=distance)


def test_waiting_leaves_the_latest_groups_alone():
    """The copy is of the first of two groups, or of three."""
    group = "cp.async.commit_group;\n"
    assert_same(copied(f"{2 * group}cp.async.wait_group 1;"), WORDS)
    with pytest.raises(PtxError, match=NOBODY_WAITED):
        copied(f"{2 * group}cp.async.wait_group 2;")
    assert_same(copied(f"{3 * group}cp.async.wait_group 2;"), WORDS)


def test_a_copy_to_where_others_read_is_an_error():
    read = "xor.b32 %r4, %r2, 4;\nadd.s32 %r6, %r1, %r4;\nld.shared.u32 %r7, [%r6];\n"
    with pytest.raises(PtxError, match="which another thread read with no barrier between"):
        copied(WAIT, before=f"st.shared.u32 [%r3], %r0;\nbar.sync 0;\n{read}")
    assert_same(copied(WAIT, before=f"st.shared.u32 [%r3], %r0;\nbar.sync 0;\n{read}bar.sync 0;"), WORDS)


def test_a_store_to_where_a_copy_writes_is_an_error():
    with pytest.raises(PtxError, match="writes 4 bytes .* which a copy writes that nobody has waited for"):
        copied(f"st.shared.u32 [%r3], %r0;\n{WAIT}")


def test_a_copy_reads_within_its_tensor_and_what_it_is_told_alone():
    with pytest.raises(PtxError, match="thread 63 of block 0 reads 4 bytes at .* the 256 bytes of the nearest tensor"):
        copied(WAIT, offset=4)
    assert_same(copied(WAIT, offset=1 << 20, bytes=0), torch.zeros(64, dtype=torch.int32))
    with pytest.raises(PtxError, match="thread 0 of block 0 reads 4 bytes at .*, which is not a multiple of as many"):
        copied(WAIT, offset=2, bytes=2)
    with pytest.raises(PtxError, match="thread 0 of block 0 copies more bytes than it has room for"):
        copied(WAIT, bytes=5)
