"""What is counted: of each law, programs whose counts are known."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from benchmarks.counted import page
from benchmarks.counted.problems import found, launches, problems

from .compiled import version
from .counts import kind_of
from .executor import library
from .program import table
from .syntax import PtxError
from .test_together import EXCHANGE, execute

#: Loads and stores of one lane, by their bytes: the type, and the registers.
ACCESSES = {4: ("u32", "%r9"), 8: ("u64", "%rd10"), 16: ("v4.u32", "{%r9,%r10,%r11,%r12}")}
ZEROS = ["mov.u64 %rd10, 0;", *(f"mov.u32 %r{i}, 0;" for i in range(9, 13))]


def counted(lines: list[str], *tensors: torch.Tensor, **launch: int) -> Counter[str]:
    return execute(lines, *tensors, **launch).total()


def global_access(what: str, size: int, stride: int, offset: int = 0, guard: str = "") -> list[str]:
    """Lines in which each lane accesses ``size`` bytes of a tensor at lane · stride + offset."""
    kind, registers = ACCESSES[size]
    place = f"[%rd0+{offset}]"
    operands = f"{registers}, {place}" if what == "ld" else f"{place}, {registers}"
    lines = [*ZEROS, f"mul.wide.u32 %rd9, %r0, {stride};", "add.s64 %rd0, %rd0, %rd9;"]
    return [*lines, f"{guard}{what}.global.{kind} {operands};"]


@pytest.mark.parametrize("what", ["ld", "st"])
@pytest.mark.parametrize(
    ("size", "stride", "offset", "sectors"),
    [
        (4, 4, 0, 4),  # side by side
        (4, 4, 16, 5),  # not from the beginning of a sector
        (4, 8, 0, 8),
        (4, 32, 0, 32),  # each lane in its own
        (4, 256, 0, 32),
        (4, 0, 0, 1),  # all lanes in one place
        (8, 8, 0, 8),
        (8, 8, 24, 9),
        (16, 16, 0, 16),
        (16, 16, 16, 17),
        (16, 32, 0, 32),
        (16, 0, 0, 1),
    ],
)
def test_an_access_to_global_memory_takes_the_sectors_that_it_touches(what, size, stride, offset, sectors):
    memory = torch.zeros(32 * 256 + 64, dtype=torch.int32)
    assert memory.data_ptr() % 32 == 0
    found = counted(global_access(what, size, stride, offset), memory)
    names = {"ld": ("sectors read", "least read"), "st": ("sectors written", "least written")}
    assert {name: found[name] for pair in names.values() for name in pair} == {
        name: sectors * (key == what) for key, pair in names.items() for name in pair
    }
    assert found["global"] == 1


def test_lanes_that_do_not_act_touch_nothing():
    lines = ["setp.lt.s32 %p1, %r0, 8;", *global_access("ld", 4, 32, guard="@%p1 ")]
    counts = execute(lines, torch.zeros(2048, dtype=torch.int32))
    assert counts.total()["sectors read"] == 8
    (of_load,) = (of for _, text, of in counts.instructions() if "ld.global" in text)
    assert (of_load["executed"], of_load["lanes"]) == (1, 8)


def test_a_sector_that_several_warps_touch_is_the_least_once():
    memory = torch.zeros(256, dtype=torch.int32)
    found = counted(global_access("ld", 4, 4), memory, threads=64, blocks=3)
    assert (found["sectors read"], found["least read"]) == (3 * 2 * 4, 2 * 4)


def shared_access(size: int, stride: int) -> list[str]:
    """Lines in which each lane writes ``size`` bytes of shared memory at lane · stride."""
    kind, registers = ACCESSES[size]
    first = ["mov.u32 %r1, memory;", f"mul.lo.s32 %r2, %r0, {stride};", "add.s32 %r1, %r1, %r2;"]
    return [*ZEROS, *first, f"st.shared.{kind} [%r1], {registers};"]


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 8, 12, 16, 31, 32, 33])
@pytest.mark.parametrize("size", ACCESSES)
def test_lanes_in_one_bank_wait_for_each_other(size, stride):
    """Lanes that go together are as many as have 128 bytes. Lane i accesses vector i · stride, so of n lanes gcd(n,
    stride) come to each bank."""
    together = 128 // size
    found = counted(shared_access(size, stride * size), shared=32 * 33 * 16)
    times = 32 // together
    assert found["wavefronts"] == times * math.gcd(stride, together)
    assert found["conflicts"] == found["wavefronts"] - times
    assert found["shared"] == 1


@pytest.mark.parametrize(("size", "wavefronts"), [(4, 1), (8, 2), (16, 4)])
def test_lanes_that_read_one_place_do_not_wait(size, wavefronts):
    kind, registers = ACCESSES[size]
    lines = [*ZEROS, "mov.u32 %r1, memory;", "setp.eq.s32 %p1, %r0, 0;"]
    lines += [f"@%p1 st.shared.{kind} [%r1], {registers};", "bar.sync 0;"]
    found = counted([*lines, f"ld.shared.{kind} {registers}, [%r1];"], shared=16)
    assert (found["wavefronts"], found["conflicts"]) == (1 + wavefronts, 0)


def test_halves_of_a_word_lie_in_one_bank():
    lines = ["mov.u32 %r1, memory;", "shl.b32 %r2, %r0, 1;", "add.s32 %r1, %r1, %r2;", "mov.u16 %rs1, 0;"]
    found = counted([".reg .b16 %rs<9>;", *lines, "st.shared.b16 [%r1], %rs1;"], shared=64)
    assert (found["wavefronts"], found["conflicts"]) == (1, 0)


@pytest.mark.parametrize(("warps", "blocks"), [(1, 1), (4, 1), (2, 3)])
def test_every_warp_that_comes_to_a_barrier_is_counted(warps, blocks):
    lines = EXCHANGE.format(between="bar.sync 0;", after="bar.warp.sync -1;", distance=0).strip().splitlines()
    found = counted(lines, torch.empty(128, dtype=torch.int32), threads=32 * warps, blocks=blocks, shared=512)
    assert found["barrier"] == 2 * warps * blocks


@pytest.mark.parametrize(("bound", "parted"), [(0, 0), (1, 1), (16, 1), (31, 1), (32, 0)])
def test_a_branch_that_some_lanes_take_parts_them(bound, parted):
    """Those that take it, then the others, execute what is before the place where they meet."""
    lines = [f"setp.lt.s32 %p1, %r0, {bound};", "@%p1 bra $L__there;", "add.rn.f32 %f1, %f1, %f1;", "$L__there:"]
    counts = execute(lines)
    found = counts.total()
    assert (found["parted"], found["float32"], found["control"]) == (parted, int(bound < 32), 2)
    (of_addition,) = (of for _, text, of in counts.instructions() if "f32" in text)
    assert of_addition["lanes"] == 32 - bound


@pytest.mark.parametrize("rounds", [1, 7])
def test_a_loop_counts_each_round(rounds):
    lines = ["mov.u32 %r1, 0;", "$L__loop:", "fma.rn.f32 %f1, %f1, %f1, %f1;", "add.s32 %r1, %r1, 1;"]
    lines += [f"setp.lt.s32 %p1, %r1, {rounds};", "@%p1 bra $L__loop;"]
    found = counted(lines, threads=64)
    assert (found["float32"], found["integer"], found["control"]) == (2 * rounds, 4 * rounds, 2 * rounds + 2)
    assert found["executed"] == sum(found[kind] for kind in ("float32", "integer", "control", "move"))
    assert found["lanes"] == 32 * found["executed"] and found["parted"] == 0


def test_every_instruction_has_a_kind():
    assert all(kind_of(opcode) for opcode in table(library()))
    with pytest.raises(PtxError):
        kind_of("prefetch")


@pytest.mark.parametrize(
    ("opcode", "kind"),
    [
        ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "matrix of 16 bits"),
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "matrix of tf32"),
        ("fma.rn.f64", "float64"),
        ("cvt.rzi.s32.f64", "float64"),
        ("cvt.f64.f32", "float64"),
        ("setp.lt.f64", "float64"),
        ("selp.f64", "integer of 64 bits"),
        ("mov.f64", "move"),
        ("cvt.u32.u64", "move"),
        ("cvt.s64.s32", "integer"),
        ("cvt.rn.f32.s32", "conversion"),
        ("add.s64", "integer of 64 bits"),
        ("mul.wide.s32", "integer"),
        ("setp.eq.b64", "integer of 64 bits"),
        ("and.pred", "integer"),
        ("div.s64", "division"),
        ("sqrt.rn.f32", "division"),
        ("div.rn.f64", "division of float64"),
        ("ex2.approx.ftz.f32", "special"),
        ("max.f32", "float32"),
        ("ld.param.f64", "argument"),
        ("ld.shared.f64", "shared"),
        ("st.global.v2.f64", "global"),
    ],
)
def test_kinds_are_those_of_units(opcode, kind):
    assert kind_of(opcode) == kind


def test_counts_are_the_same_every_time():
    """And a launch that is counted computes the same."""
    problem = next(problem for problem in problems() if problem.op == "orbit")
    first, second = (launches(problem, 1)[0] for _ in range(2))
    assert [name for name, _ in first] == [name for name, _ in second]
    assert all(a.table == b.table and a.sectors == b.sectors for (_, a), (_, b) in zip(first, second, strict=True))


def test_the_page_is_what_is_counted():
    """By the nvcc that wrote it; of each op, its first problem."""
    text = page.DOCS.read_text()
    named = [(problem.name, problem.kind) for problem in problems()]
    assert all(text.count(f"| {name} | {kind} |") == 3 for name, kind in named)
    if f"nvcc {version()}" not in text:
        pytest.skip(f"nvcc {version()} hasn't written the page")
    by_op = {problem.op: problem for problem in reversed(list(problems()))}
    for problem in by_op.values():
        for cells in page.row(problem, found(problem)):
            assert f"| {' | '.join(cells)} |" in text
