"""Each instruction that computes obeys its law (`laws`), and what isn't known is an error."""

from __future__ import annotations

import ctypes
import random
import re

import pytest
import torch

from . import laws
from .executor import decoded, library, run
from .formats import BF16, F16, F32, F64, rounded
from .laws import Undefined, law
from .program import LETTERS, Known, table
from .syntax import PtxError, entry, tokens

REGISTERS = {1: "%p", 16: "%rs", 32: "%r", 64: "%rd"}
TENSORS = {1: torch.int32, 16: torch.int16, 32: torch.int32, 64: torch.int64}
THREADS = 1024

#: What no law of single lanes describes: memory, control, and what lanes do together. They have tests of their own.
TOGETHER = ("ld", "st", "bra", "ret", "bar", "shfl", "mma", "redux", "ldmatrix", "cp")

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
    return tuple([LETTERS[c] for c in part if c in LETTERS] for part in (text[:end], text[end:]))


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
    lines += [f"{opcode} {''.join(next(order) if c in LETTERS else c for c in known.written)};"]
    return "\n".join([*lines, *stores, "ret;", "}"])


def interesting(width: int, generator: random.Random) -> int:
    """Bits that matter as integers or as floating-point numbers."""
    if width == 1:
        return generator.getrandbits(1)
    form = {16: F16, 32: F32, 64: F64}[width]
    below = form.precision - 1
    sign = generator.choice((0, form.sign))
    one = form.exponent << below
    kind, cut = generator.randrange(6), min(generator.choice((6, 12, 12, 15, 28)), below)
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
    if kind == 3:  # an integer that lies halfway between two numbers of float32
        return ((generator.getrandbits(25) | 1) << generator.randrange(max(width - 24, 1))) % 2**width
    if kind == 4:  # on a tie of a narrower format, or just beside it
        return one + (generator.getrandbits(below) >> cut << cut) + generator.choice((-1, 0, 0, 0, 1)) | sign
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
        form = {16: F16, 32: F32, 64: F64}[width]
        return found & (form.sign - 1) > form.infinity
    return found in expected if isinstance(expected, range) else found == expected


def drawn(opcode: str, known: Known) -> list[list[int]]:
    """Operands for each thread."""
    generator = random.Random(opcode)
    _, ins = letters(known)
    operands = [[interesting(width, generator) for _ in range(THREADS)] for width in ins]
    if opcode.startswith(("div.s", "div.u", "rem.")):
        operands[1] = [bits or 1 for bits in operands[1]]
    if re.match(r"(add|sub)\.(rn|f)|setp", opcode):  # the same number on both sides, and its negative
        top = 1 << (ins[0] - 1)
        operands[1][:200] = [bits ^ (i % 2 * top) for i, bits in enumerate(operands[0][:200])]
    if opcode.startswith(("shl", "shr", "bfi", "bfe", "shf")):  # by about as many bits as there are
        for amounts in operands[2 if opcode.startswith(("bfi", "shf")) else 1 :]:
            amounts[:900] = [generator.randrange(70) for _ in range(900)]
    if opcode.startswith("fma"):  # a sum, which is often halfway between two numbers
        form = {16: BF16, 32: F32, 64: F64}[ins[0]]
        operands[1][:500] = [form.exponent << (form.precision - 1)] * 500
    return operands


@pytest.mark.parametrize(("opcode", "known"), KNOWN)
def test_an_instruction_obeys_its_law(opcode, known):
    outs, ins = letters(known)
    operands = drawn(opcode, known)
    found = executed(opcode, known, operands)
    if "{" in known.written:  # the first of a pair is the lower half
        half = min(outs + ins)
        for lane in range(THREADS):
            pair = [row[lane] for row in (found if len(outs) == 2 else operands)]
            assert pair[0] + (pair[1] << half) == (operands if len(outs) == 2 else found)[0][lane]
        return
    if "|" in known.written:  # a predicate for the lower halves, then one for the upper
        of_half = law(opcode.removesuffix("x2"))
        for lane, given in enumerate(zip(*operands, strict=True)):
            for predicates, shift in zip(found, (0, 16), strict=True):
                assert predicates[lane] == of_half(*(bits >> shift & 0xFFFF for bits in given))
        return
    for lane, given in enumerate(zip(*operands, strict=True)):
        expected = law(opcode)(*given)
        assert agrees(found[0][lane], expected, outs[0]), (list(map(hex, given)), hex(found[0][lane]), expected)


ROUNDED = [(each.values[0], each.values[1]) for each in KNOWN if re.search(r"\.rn?[nma]\.", each.values[0])]


@pytest.mark.parametrize(("opcode", "known"), ROUNDED)
def test_operands_tell_roundings_apart(opcode, known, monkeypatch):
    """By the law of another rounding, some results would be others: to the nearest, ties to even (rn) or away from zero
    (rna); down (rm); towards zero (rz)."""
    given = list(zip(*drawn(opcode, known), strict=True))
    right = [law(opcode)(*operands) for operands in given]
    own = re.search(r"\.(rn|rm|rna)\.", opcode)[1]
    others = {"rn", "rm", "rz", "rna"} - {own}
    if opcode.startswith(("div", "rcp", "sqrt")):  # which never tie
        others -= {"rna"}
    if opcode in ("cvt.rn.f64.s32", "cvt.rn.f64.u32"):  # which are exact
        others = set()
    for other in others:
        with monkeypatch.context() as patched:
            patched.setattr(laws, "rounded", lambda value, form, mode="rn", other=other: rounded(value, form, other))
            assert [law(opcode)(*operands) for operands in given] != right, other


@pytest.mark.parametrize("opcode", [o for o in table(library()) if o.startswith(("div.s", "div.u", "rem."))])
def test_a_quotient_by_zero_is_an_error(opcode):
    (known,) = table(library())[opcode]
    with pytest.raises(PtxError, match="thread 7 of block 0 divides by zero"):
        executed(opcode, known, [[5] * THREADS, [(i - 7) % 2**32 for i in range(THREADS)]])
    with pytest.raises(Undefined):
        law(opcode)(5, 0)


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
    assert "line 7: bar.sync takes 0" in refused("bar.sync 1;")
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
