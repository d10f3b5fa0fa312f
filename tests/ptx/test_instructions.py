"""Each instruction of the executor by itself: one that computes obeys its law (`laws`), and others move what they say."""

from __future__ import annotations

import ctypes
import random

import pytest
import torch

from .executor import decoded, library, run
from .formats import F16, F32, F64
from .laws import Undefined, law
from .program import WIDTHS, Known, table
from .syntax import PtxError, entry, tokens

REGISTERS = {1: "%p", 16: "%rs", 32: "%r", 64: "%rd"}
TENSORS = {1: torch.int32, 16: torch.int16, 32: torch.int32, 64: torch.int64}
THREADS = 1024

#: What no law of single lanes describes: memory, control, and what lanes do together. They have tests of their own.
TOGETHER = ("ld", "st", "bra", "ret", "bar", "shfl", "mma")

KNOWN = [
    pytest.param(opcode, known, id=f"{opcode} {known.written}")
    for opcode, all_known in table(library()).items()
    for known in all_known
    if opcode.split(".")[0] not in TOGETHER
]


def letters(known: Known) -> tuple[list[int], list[int]]:
    """The widths of what an instruction writes, and of what it reads."""
    text = known.written
    end = text.index("}") + 1 if text.startswith("{") else text.index(",")
    return tuple([WIDTHS[c] for c in part if c in WIDTHS] for part in (text[:end], text[end:]))


def kernel(opcode: str, known: Known) -> str:
    """An entry whose threads read the operands of an instruction, execute it and write the result."""
    outs, ins = letters(known)
    lines = [".entry law(", ".param .align 8 .b8 law_param[64]", ")", ".maxntid 1024, 1, 1", "{"]
    lines += [".reg .pred %p<99>;", ".reg .b16 %rs<99>;", ".reg .b32 %r<99>;", ".reg .b64 %rd<99>;"]
    lines += ["mov.u32 %r90, %tid.x;", "mov.b64 %rd91, law_param;"]
    names, stores = [], []
    for i, width in enumerate(outs + ins):
        names.append(f"{REGISTERS[width]}{i}")
        kind, value = ("u32", "%r91") if width == 1 else (f"u{width}", names[i])
        place = f"%rd{30 + i}"
        lines += [f"ld.param.u64 %rd92, [%rd91+{8 * i}];", f"mul.wide.u32 %rd93, %r90, {int(kind[1:]) // 8};"]
        lines += [f"add.s64 {place}, %rd92, %rd93;"]
        if i < len(outs):
            stores += [f"selp.u32 {value}, 1, 0, {names[i]};"] * (width == 1)
            stores += [f"st.global.{kind} [{place}], {value};"]
        else:
            lines += [f"ld.global.{kind} {value}, [{place}];"]
            lines += [f"setp.ne.s32 {names[i]}, {value}, 0;"] * (width == 1)
    order = iter(names)
    lines += [f"{opcode} {''.join(next(order) if c in WIDTHS else c for c in known.written)};"]
    return "\n".join([*lines, *stores, "ret;", "}"])


def interesting(width: int, generator: random.Random) -> int:
    """Bits that matter as integers or as floating-point numbers."""
    if width == 1:
        return generator.getrandbits(1)
    form = {16: F16, 32: F32, 64: F64}[width]
    below = form.precision - 1
    sign = generator.choice((0, form.sign))
    one = form.exponent << below
    kind = generator.randrange(5)
    if kind == 0:
        edges = (
            0,
            1,
            3,
            form.sign - 1,
            form.infinity,
            form.infinity + 1,
            form.infinity - 1,
            1 << below,
            (1 << below) - 1,
        )
        return generator.choice(edges) | sign
    if kind == 1:  # of few bits, from small to large
        return (
            one + (generator.randrange(-8, min(70, form.exponent)) << below) + (generator.getrandbits(3) << (below - 3))
            | sign
        )
    if kind == 2:
        return generator.randrange(-70, 300) % 2**width
    if kind == 3:  # just beside a tie of a narrower format
        return one + (generator.getrandbits(below) >> 12 << 12) + generator.randrange(-1, 2) | sign
    return generator.getrandbits(width)


def executed(opcode: str, known: Known, operands: list[list[int]]) -> list[list[int]]:
    outs, ins = letters(known)
    rows = [[0] * THREADS for _ in outs] + operands
    tensors = [
        torch.tensor(
            [bits - (bits >> (width - 1) << width) if width > 1 else bits for bits in row], dtype=TENSORS[width]
        )
        for width, row in zip(outs + ins, rows, strict=True)
    ]
    args = (ctypes.c_uint64 * 8)(*(t.data_ptr() for t in tensors))
    program = decoded(entry(1, kernel(opcode, known).splitlines()))
    run(program, 1, THREADS, 0, ctypes.addressof(args), ctypes.sizeof(args))
    return [[bits % 2**width for bits in t.tolist()] for width, t in zip(outs, tensors, strict=False)]


def agrees(found: int, expected: int | range | None, width: int) -> bool:
    if expected is None:
        form = {32: F32, 64: F64}[width]
        return found & (form.sign - 1) > form.infinity
    return found in expected if isinstance(expected, range) else found == expected


@pytest.mark.parametrize(("opcode", "known"), KNOWN)
def test_an_instruction_obeys_its_law(opcode, known):
    generator = random.Random(opcode)
    outs, ins = letters(known)
    operands = [[interesting(width, generator) for _ in range(THREADS)] for width in ins]
    if opcode.startswith(("div.s", "div.u", "rem.")):
        operands[1] = [bits or 1 for bits in operands[1]]
    if opcode.startswith(("add.rn", "sub.rn", "setp")):  # the same number on both sides, and its negative
        top = 1 << (ins[0] - 1)
        operands[1][:200] = [bits ^ (i % 2 * top) for i, bits in enumerate(operands[0][:200])]
    found = executed(opcode, known, operands)
    if "{" in known.written:  # the first of a pair is the lower half
        half = min(outs + ins)
        for lane in range(THREADS):
            pair = [row[lane] for row in (found if len(outs) == 2 else operands)]
            assert pair[0] + (pair[1] << half) == (operands if len(outs) == 2 else found)[0][lane]
        return
    for lane, given in enumerate(zip(*operands, strict=True)):
        expected = law(opcode)(*given)
        assert agrees(found[0][lane], expected, outs[0]), (list(map(hex, given)), hex(found[0][lane]), expected)


@pytest.mark.parametrize("opcode", [o for o in table(library()) if o.startswith(("div.s", "div.u", "rem."))])
def test_a_quotient_by_zero_is_an_error(opcode):
    (known,) = table(library())[opcode]
    with pytest.raises(PtxError, match="thread 7 of block 0 divides by zero"):
        executed(opcode, known, [[5] * THREADS, [i - 7 for i in range(THREADS)]])
    with pytest.raises(Undefined):
        law(opcode)(5, 0)


MOVED = [
    pytest.param(opcode, known, id=f"{opcode} {known.written}")
    for opcode, all_known in table(library()).items()
    for known in all_known
    if opcode.startswith(("ld.", "st."))
]


@pytest.mark.parametrize(("opcode", "known"), MOVED)
def test_a_transfer_moves_bytes(opcode, known):
    """Each thread stores registers to memory and loads them again: one of the two is the instruction under test."""
    kind = opcode.split(".")[-1]
    size, count = int(kind[1:]) // 8, known.written.count(",") or 1
    count = len([c for c in known.written if c in WIDTHS]) - 1  # but the address
    address, space = known.written[known.written.index("[") + 1], opcode.split(".")[1]
    register = (
        WIDTHS[next(c for c in reversed(known.written) if c in WIDTHS)]
        if opcode.startswith("st")
        else WIDTHS[known.written.lstrip("{")[0]]
    )
    names = [f"{REGISTERS[register]}{i}" for i in range(count)]
    generator = random.Random(opcode)
    each = size * count
    data = torch.tensor([generator.getrandbits(8) for _ in range(32 * each)], dtype=torch.uint8)
    out = torch.zeros(32 * count * register // 8, dtype=torch.uint8)
    lines = [".entry moves(", f".param .align 8 .b8 moves_param[{16 + 32 * each}]", ")", "{"]
    lines += [".reg .pred %p<9>;", ".reg .b16 %rs<99>;", ".reg .b32 %r<99>;", ".reg .b64 %rd<99>;"]
    lines += ["mov.u32 %r90, %tid.x;", "mov.b64 %rd91, moves_param;"]
    lines += ["ld.param.u64 %rd92, [%rd91+0];", "ld.param.u64 %rd93, [%rd91+8];"]
    lines += [f"mul.wide.u32 %rd94, %r90, {each};", "add.s64 %rd92, %rd92, %rd94;"]
    lines += [f"mul.wide.u32 %rd95, %r90, {count * register // 8};", "add.s64 %rd93, %rd93, %rd95;"]
    lines += [f"mul.lo.s32 %r91, %r90, {each};", "mov.u32 %r92, memory;", "add.s32 %r91, %r91, %r92;"]
    lines += ["add.s64 %rd96, %rd91, %rd94;", "add.s64 %rd96, %rd96, 16;"]
    place = {"global": "%rd92", "shared": "%r91", "param": "%rd96"}[space]
    assert (address == "w") == (space == "shared")
    group = names[0] if count == 1 else "{" + ", ".join(names) + "}"
    plain = {16: "u16", 32: "u32", 64: "u64"}[register]
    if opcode.startswith("st"):  # registers from memory by plain loads, then the store under test over zeros
        lines += [
            f"ld.global.u{max(8 * size, 16)} {name}, [%rd93+{i * register // 8}];" for i, name in enumerate(names)
        ]
        lines += [f"{opcode} [{place}], {group};"]
        if space == "shared":
            wide = {2: None, 4: "u32", 8: "u64"}[size]
            back = f"%r8{0}" if size == 4 else "%rd80"
            if wide:
                for i in range(count):
                    lines += [
                        f"ld.shared.{wide} {back}, [%r91+{i * size}];",
                        f"st.global.{wide} [%rd92+{i * size}], {back};",
                    ]
            else:
                pytest.skip("nothing loads 16 bits from shared memory")
        out = torch.tensor([generator.getrandbits(8) for _ in range(len(out))], dtype=torch.uint8)
        expected = out.view(32, count, register // 8)[..., :size].flatten()
    else:
        if space == "shared":
            wide = {4: "u32", 8: "u64"}[size]
            back = "%r80" if size == 4 else "%rd80"
            for i in range(count):
                lines += [
                    f"ld.global.{wide} {back}, [%rd92+{i * size}];",
                    f"st.shared.{wide} [%r91+{i * size}], {back};",
                ]
        lines += [f"{opcode} {group}, [{place}];"]
        lines += [f"st.global.{plain} [%rd93+{i * register // 8}], {name};" for i, name in enumerate(names)]
        bits = data.view(32, count, size)
        fill = torch.zeros(32, count, register // 8 - size, dtype=torch.uint8)
        if kind.startswith("s"):
            fill += (bits[..., -1:] >> 7) * 255
        expected = torch.cat((bits, fill), -1).flatten()
    text = [*lines, "ret;", "}"]
    args = torch.cat((torch.tensor([data.data_ptr(), out.data_ptr()]).view(torch.uint8), data))
    run(decoded(entry(1, text, "memory")), 1, 32, 32 * each, args.data_ptr(), args.nbytes)
    assert torch.equal(data if opcode.startswith("st") else out, expected)


def test_what_isnt_known_is_an_error_that_names_it():
    def refused(line: str) -> str:
        text = [".entry odd(", ".param .align 8 .b8 odd_param[8]", ")", "{", ".reg .b32 %r<9>;", ".reg .f64 %fd<9>;"]
        with pytest.raises(PtxError) as raised:
            decoded(entry(1, [*text, line, "ret;", "}"]))
        return str(raised.value)

    assert "line 7: add.sat.s32 isn't known" in refused("add.sat.s32 %r1, %r2, %r3;")
    assert "line 7: add.s32 takes w,w,w" in refused("add.s32 %r1, %r2, %fd3;")
    assert "line 7: add.rn.ftz.f32 isn't known" in refused("add.rn.ftz.f32 %r1, %r2, %r3;")
    assert "line 7" in refused("add.s32 %r1, %r2, 4294967296;")
    assert "line 7" in refused("add.s32 %r1, %q2, %r3;")
    assert "line 7" in refused("bra $L__nowhere;")
    assert "line 7" in refused(".local .b8 stack[8];")
    assert tokens("%r1|%p2, [a], {%r3, -1}") == [
        "%r1",
        "|",
        "%p2",
        ",",
        "[",
        "a",
        "+",
        "0",
        "]",
        ",",
        "{",
        "%r3",
        ",",
        "-1",
        "}",
    ]
