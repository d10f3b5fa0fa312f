"""What lanes and threads do together: matrix instructions, shuffles, barriers and branches."""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

import pytest
import torch

from ..cases import assert_same, rand
from .counts import Counts
from .executor import decoded, run
from .syntax import PtxError, entry

try:
    from tensor_layouts import atoms_nv
except ImportError as error:
    atoms_nv, MISSING = None, str(error)

#: The instruction for matrices of each dtype, what an independent package calls it, and the depth of the product.
MATRICES = {
    torch.float16: ("m16n8k16.row.col.f32.f16.f16.f32", "SM80_16x8x16_F32F16F16F32_TN", 16),
    torch.bfloat16: ("m16n8k16.row.col.f32.bf16.bf16.f32", "SM80_16x8x16_F32BF16BF16F32_TN", 16),
    torch.float32: ("m16n8k8.row.col.f32.tf32.tf32.f32", "SM80_16x8x8_F32TF32TF32F32_TN", 8),
}

HEADER = [".reg .pred %p<99>;", ".reg .b32 %r<99>;", ".reg .f32 %f<99>;", ".reg .b64 %rd<99>;"]


def execute(lines: list[str], *tensors: torch.Tensor, threads: int = 32, blocks: int = 1, shared: int = 0) -> Counts:
    """Run lines of PTX in which %rd0, %rd1 … are the addresses of the tensors and %r0 is %tid.x; count what they do."""
    first = [".entry test(", ".param .align 8 .b8 test_param[64]", ")", "{", *HEADER]
    first += [f"ld.param.u64 %rd{i}, [test_param+{8 * i}];" for i in range(len(tensors))]
    text = "\n".join([*first, "mov.u32 %r0, %tid.x;", *lines, "ret;", "}"]).splitlines()
    args = (ctypes.c_uint64 * 8)(*(t.data_ptr() for t in tensors))
    program = decoded(entry(1, text, "memory"))
    counts = Counts(program)
    run(program, blocks, threads, shared, ctypes.addressof(args), ctypes.sizeof(args), counts)
    return counts


def places(layout, rows: int, values: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows and the columns of each value of each lane, (32, values), where a layout counts down the columns."""
    flat = torch.tensor([[layout(lane, value) for value in range(values)] for lane in range(32)])
    return flat % rows, flat // rows


def multiplied(kind: str, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """What the instruction makes of the values of each lane: of c (32, 4)."""
    words = [t.contiguous().view(torch.int32).view(32, -1) for t in (a, b, c)]
    out = torch.empty(32, 4)
    lines = ["mul.wide.u32 %rd9, %r0, 16;", "mul.wide.u32 %rd10, %r0, 8;"]
    lines += ["add.s64 %rd0, %rd0, %rd9;", "add.s64 %rd1, %rd1, %rd10;", "add.s64 %rd2, %rd2, %rd9;"]
    lines += ["add.s64 %rd3, %rd3, %rd9;", "ld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%rd0];"]
    lines += ["ld.global.v2.u32 {%r5,%r6}, [%rd1];", "ld.global.v4.f32 {%f1,%f2,%f3,%f4}, [%rd2];"]
    registers = "{%f5,%f6,%f7,%f8}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4}"
    lines += [f"mma.sync.aligned.{kind} {registers};", "st.global.v4.f32 [%rd3], {%f5,%f6,%f7,%f8};"]
    execute(lines, *words, out)
    return out


def independent(name: str):
    """What the package tensor-layouts, which knows nothing of this one, says of an instruction."""
    if atoms_nv is None:
        (pytest.fail if os.environ.get("EQUIFAST_REQUIRE_PEERS", "0") != "0" else pytest.skip)(MISSING)
    return getattr(atoms_nv, name)


@pytest.mark.parametrize("dtype", MATRICES, ids=str)
def test_a_matrix_instruction_is_a_product(dtype):
    """Lanes hold their values where an independent package has them."""
    kind, name, depth = MATRICES[dtype]
    atom = independent(name)
    assert atom.ptx == f"mma.sync.aligned.{kind}"
    a, b, c = rand(16, depth, dtype=dtype), rand(depth, 8, dtype=dtype, seed=1), rand(16, 8, seed=2)
    a[3] = 0
    a[3, :2], b[:2, 5], c[3, 5] = torch.tensor([4096.0, -4096.0]), 16.0, 2.0**-24  # cancels but for a small rest
    sizes = (8, 4, 4) if depth == 16 else (4, 2, 4)
    layouts = atom.a_layout, atom.b_layout, atom.c_layout
    of_a, of_b, of_c = (places(layout, n, v) for layout, n, v in zip(layouts, (16, 8, 16), sizes, strict=True))
    found = multiplied(kind, a[of_a], b.t()[of_b], c[of_c])
    if dtype == torch.float32:  # of which ten bits of the mantissa are read
        a, b = ((t.view(torch.int32) & -0x2000).view(torch.float32) for t in (a, b))
    expected = (a.double() @ b.double() + c.double())[of_c]
    torch.testing.assert_close(found.double(), expected, rtol=2**-23, atol=0)


def test_a_matrix_instruction_in_float64_is_a_product():
    atom = independent("SM80_8x8x4_F64F64F64F64_TN")
    assert atom.ptx == "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64"
    a, b, c = (rand(*shape, dtype=torch.float64, seed=sum(shape)) for shape in ((8, 4), (4, 8), (8, 8)))
    layouts = (atom.a_layout, 1), (atom.b_layout, 1), (atom.c_layout, 2)
    of_a, of_b, of_c = (places(layout, 8, values) for layout, values in layouts)
    out = torch.empty(32, 2, dtype=torch.float64)
    lines = ["mul.wide.u32 %rd9, %r0, 8;", "mul.wide.u32 %rd10, %r0, 16;", "add.s64 %rd0, %rd0, %rd9;"]
    lines += ["add.s64 %rd1, %rd1, %rd9;", "add.s64 %rd2, %rd2, %rd10;", "add.s64 %rd3, %rd3, %rd10;"]
    lines += ["ld.global.b64 %rd20, [%rd0];", "ld.global.b64 %rd21, [%rd1];", "ld.global.v2.b64 {%rd22,%rd23}, [%rd2];"]
    lines += [f"{atom.ptx} {{%rd24,%rd25}}, {{%rd20}}, {{%rd21}}, {{%rd22,%rd23}};"]
    tensors = [t.contiguous() for t in (a[of_a], b.t()[of_b], c[of_c])]
    execute([*lines, "st.global.v2.b64 [%rd3], {%rd24,%rd25};"], *tensors, out)
    torch.testing.assert_close(out, (a @ b + c)[of_c], rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", MATRICES, ids=str)
def test_a_matrix_instruction_takes_a_whole_warp(dtype):
    registers = "{%f5,%f6,%f7,%f8}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4}"
    lines = ["setp.eq.s32 %p1, %r0, 9;", f"@!%p1 mma.sync.aligned.{MATRICES[dtype][0]} {registers};"]
    with pytest.raises(PtxError, match="waits for threads of its warp that never come there"):
        execute(lines)


@pytest.mark.parametrize(("transposed", "name"), [("", "SM75_U32x4_LDSM_N"), (".trans", "SM75_U16x8_LDSM_T")])
def test_matrices_are_loaded_to_where_products_take_them(transposed, name):
    """Lanes get the bits that an independent package says, wherever the rows lie."""
    layout = independent(name).dst_layout_bits
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(-(2**15), 2**15, (32, 8), dtype=torch.int16, generator=generator)
    place = torch.randperm(32, generator=generator)
    memory, out = torch.empty_like(rows), torch.empty(32, 4, dtype=torch.int32)
    memory[place] = rows
    lines = ["mul.wide.u32 %rd9, %r0, 16;", "add.s64 %rd0, %rd0, %rd9;", "add.s64 %rd2, %rd2, %rd9;"]
    lines += ["ld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%rd0];", "mov.u32 %r5, memory;", "shl.b32 %r6, %r0, 4;"]
    lines += ["add.s32 %r6, %r5, %r6;", "st.shared.v4.u32 [%r6], {%r1,%r2,%r3,%r4};", "bar.sync 0;"]
    lines += ["mul.wide.u32 %rd9, %r0, 4;", "add.s64 %rd1, %rd1, %rd9;", "ld.global.u32 %r7, [%rd1];"]
    lines += ["shl.b32 %r7, %r7, 4;", "add.s32 %r7, %r5, %r7;"]
    lines += [f"ldmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 {{%r1,%r2,%r3,%r4}}, [%r7];"]
    execute([*lines, "st.global.v4.u32 [%rd2], {%r1,%r2,%r3,%r4};"], memory, place.int(), out, shared=512)
    halves = torch.tensor([[layout(lane, 16 * half) // 16 for half in range(8)] for lane in range(32)])
    assert_same(out.view(torch.int16), rows.flatten()[halves])


@pytest.mark.parametrize("choice", ["min", "max"])
def test_the_least_or_the_largest_value_of_a_warp(choice):
    """Of all its lanes, or of those that take part."""
    values, out = torch.randint(-50, 50, (64,), dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    lines = ["mul.wide.u32 %rd9, %r0, 4;", "add.s64 %rd0, %rd0, %rd9;", "add.s64 %rd1, %rd1, %rd9;"]
    lines += ["ld.global.u32 %r1, [%rd0];", "mov.u32 %r2, 0;", "and.b32 %r3, %r0, 31;"]
    lines += ["setp.lt.s32 %p1, %r3, {count};"]
    lines += [f"@%p1 redux.sync.{choice}.s32 %r2, %r1, {{mask}};", "st.global.u32 [%rd1], %r2;"]
    for count in (32, 5, 1):
        execute([line.format(count=count, mask=2**count - 1) for line in lines], values, out, threads=64)
        of_each = getattr(values.view(2, 32)[:, :count], f"a{choice}")
        expected = of_each(1, keepdim=True).expand(2, 32).clone()
        expected[:, count:] = 0
        assert_same(out.view(2, 32), expected)


@pytest.mark.parametrize("segment", [8, 32])
def test_a_shuffle_takes_the_value_of_the_lane_that_is_named(segment):
    """Of its own segment."""
    generator = torch.Generator().manual_seed(segment)
    values, index = torch.randint(-(2**31), 2**31, (2, 64), dtype=torch.int32, generator=generator)
    out, bounds = torch.zeros(64, dtype=torch.int32), (32 - segment) << 8 | 31
    lines = ["mul.wide.u32 %rd9, %r0, 4;", *(f"add.s64 %rd{i}, %rd{i}, %rd9;" for i in range(3))]
    lines += ["ld.global.u32 %r1, [%rd0];", "ld.global.u32 %r2, [%rd1];"]
    lines += [f"shfl.sync.idx.b32 %r3, %r1, %r2, {bounds}, -1;", "st.global.u32 [%rd2], %r3;"]
    execute(lines, values, index, out, threads=64)
    lane = torch.arange(64)
    assert_same(out, values[lane // segment * segment + index % segment])


@pytest.mark.parametrize("segment", [1, 8, 32])
@pytest.mark.parametrize("bits", [0, 1, 3, 16, 31])
def test_a_shuffle_takes_the_value_of_another_lane(bits, segment):
    """Where the bound of its segment lets it: a lane with a smaller number always, and one with a larger in its own."""
    values = torch.randint(-(2**31), 2**31, (64,), dtype=torch.int32, generator=torch.Generator().manual_seed(bits))
    out, moved = torch.zeros(2, 64, dtype=torch.int32)
    lines = ["mul.wide.u32 %rd9, %r0, 4;", *(f"add.s64 %rd{i}, %rd{i}, %rd9;" for i in range(3))]
    bounds = (32 - segment) << 8 | 31
    lines += ["ld.global.u32 %r1, [%rd0];", f"shfl.sync.bfly.b32 %r2|%p1, %r1, {bits}, {bounds}, -1;"]
    lines += ["selp.u32 %r3, 1, 0, %p1;", "st.global.u32 [%rd1], %r2;", "st.global.u32 [%rd2], %r3;"]
    execute(lines, values, out, moved, threads=64)
    lane = torch.arange(32)
    inside = (lane ^ bits) // segment <= lane // segment
    assert_same(out, values.view(2, 32)[:, torch.where(inside, lane ^ bits, lane)].flatten())
    assert_same(moved, inside.int().repeat(2))


#: Threads write their number to shared memory, and read that of another thread after what stands between.
EXCHANGE = """
mov.u32 %r1, memory;
shl.b32 %r2, %r0, 2;
add.s32 %r3, %r1, %r2;
st.shared.u32 [%r3], %r0;
{between}
xor.b32 %r4, %r0, {distance};
shl.b32 %r5, %r4, 2;
add.s32 %r6, %r1, %r5;
ld.shared.u32 %r7, [%r6];
{after}
st.shared.u32 [%r3], %r7;
mul.wide.u32 %rd9, %r0, 4;
add.s64 %rd0, %rd0, %rd9;
st.global.u32 [%rd0], %r7;
"""


@pytest.mark.parametrize(
    ("between", "after", "distance", "wrong"),
    [
        ("bar.sync 0;", "bar.sync 0;", 32, None),
        ("bar.sync 0;", "bar.sync 0;", 1, None),
        ("bar.warp.sync -1;", "bar.warp.sync -1;", 1, None),
        ("bar.warp.sync -1;", "bar.sync 0;", 1, None),
        ("", "bar.sync 0;", 0, None),
        ("", "bar.sync 0;", 1, "reads 4 bytes at 0x[0-9a-f]+ of shared memory, which another thread wrote"),
        ("", "bar.sync 0;", 32, "which no thread of the block has written"),
        ("bar.warp.sync -1;", "bar.sync 0;", 32, "which no thread of the block has written"),
        ("bar.sync 0;", "", 1, "writes 4 bytes at 0x[0-9a-f]+ of shared memory, which another thread read"),
        (
            "bar.sync 0;",
            "bar.warp.sync -1;",
            32,
            "reads 4 bytes at 0x[0-9a-f]+ of shared memory, which another thread wrote",
        ),
        ("bar.warp.sync 65535;", "bar.sync 0;", 1, "waits for threads of its warp that never come there"),
    ],
)
def test_threads_exchange_values_at_barriers_alone(between, after, distance, wrong):
    out = torch.empty(128, dtype=torch.int32)
    lines = EXCHANGE.format(between=between, after=after, distance=distance).strip().splitlines()
    if wrong:
        with pytest.raises(PtxError, match=wrong):
            execute(lines, out, threads=128, shared=512)
        return
    execute(lines, out, threads=128, shared=512)
    assert_same(out, torch.arange(128, dtype=torch.int32) ^ distance)


def test_a_block_finds_nothing_that_another_left_in_shared_memory():
    """The first block writes, and the second reads."""
    lines = ["mov.u32 %r1, %ctaid.x;", "setp.eq.s32 %p1, %r1, 1;", "mov.u32 %r3, memory;", "@%p1 bra $L__second;"]
    lines += ["mov.u32 %r2, 5;", "st.shared.u32 [%r3], %r2;", "ret;", "$L__second:", "ld.shared.u32 %r4, [%r3];"]
    with pytest.raises(PtxError, match="thread 0 of block 1 reads .* which no thread of the block has written"):
        execute(["setp.ne.s32 %p2, %r0, 0;", "@%p2 ret;", *lines], blocks=2, shared=4)


def test_two_lanes_that_write_one_place_are_an_error():
    """Unless they write the same value."""
    with pytest.raises(PtxError, match="which another thread wrote with no barrier between"):
        execute(["mov.u32 %r1, memory;", "st.shared.u32 [%r1], %r0;"], shared=4)
    out = torch.zeros(1, dtype=torch.int32)
    lines = ["mov.u32 %r1, memory;", "st.shared.u32 [%r1], 7;", "bar.sync 0;", "ld.shared.u32 %r2, [%r1];"]
    execute([*lines, "setp.ne.s32 %p1, %r0, 0;", "@%p1 ret;", "st.global.u32 [%rd0], %r2;"], out, shared=4, threads=64)
    assert out.item() == 7


def test_lanes_that_part_come_together_again():
    """Each lane goes around a loop as often as its number says; then all shuffle. The loop ends before it begins in the
    text, so lanes also join backwards."""
    out = torch.empty(64, dtype=torch.int32)
    lines = ["mov.u32 %r1, 0;", "mov.u32 %r2, 0;", "bra.uni $L__test;"]
    lines += ["$L__after:", "shfl.sync.bfly.b32 %r3|%p2, %r1, 1, 31, -1;", "mul.wide.u32 %rd9, %r0, 4;"]
    lines += ["add.s64 %rd0, %rd0, %rd9;", "st.global.u32 [%rd0], %r3;", "ret;"]
    lines += ["$L__body:", "add.s32 %r1, %r1, %r2;", "add.s32 %r2, %r2, 1;"]
    lines += ["$L__test:", "setp.lt.s32 %p1, %r2, %r0;", "@%p1 bra $L__body;", "bra $L__after;"]
    execute(lines, out, threads=64)
    assert_same(out, torch.tensor([sum(range(i ^ 1)) for i in range(64)], dtype=torch.int32))


def test_memory_of_no_tensor_of_the_kernel_is_an_error():
    """Of another tensor, of one that was freed, and where nothing is."""
    other, freed = torch.zeros(1000, dtype=torch.int32), torch.zeros(1000, dtype=torch.int32)
    held = torch.tensor([other.data_ptr(), freed.data_ptr(), 0, 64])
    del freed
    for offset in range(0, 32, 8):
        lines = [f"ld.global.u64 %rd1, [%rd0+{offset}];", "ld.global.u32 %r1, [%rd1];"]
        with pytest.raises(PtxError, match="thread 0 of block 0 reads 4 bytes at .* of the nearest tensor"):
            execute(lines, held)
    execute(["ld.global.u64 %rd2, [%rd0];", "ld.global.u32 %r1, [%rd2];"], held, other)


def test_a_tensor_that_was_freed_before_the_launch_is_an_error():
    class Freed(NamedTuple):
        address: int

        def data_ptr(self) -> int:
            return self.address

    freed = Freed(torch.zeros(1000, dtype=torch.int32).data_ptr())
    with pytest.raises(PtxError, match="thread 0 of block 0 writes 4 bytes at .*, and has no tensor"):
        execute(["st.global.u32 [%rd0+400], %r0;"], freed)
