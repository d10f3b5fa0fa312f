"""What launches do, in numbers: instructions by kind, sectors of global and wavefronts of shared memory."""

from __future__ import annotations

import re
from array import array
from collections import Counter

from .program import Program
from .syntax import PtxError

#: Of each instruction, as counters.h has them.
FIELDS = ("executed", "lanes", "transactions", "conflicts")

#: Kinds of instructions and their opcodes. An opcode is of the first kind that matches. Conversions from and to float64
#: run on the unit for float64, and a choice between two values of float64 doesn't. Integers change their width as they
#: move. Divisions and roots are many instructions of a GPU.
KINDS = {
    "matrix of 16 bits": r"mma\..*\.b?f16\.b?f16\.f32",
    "matrix of tf32": r"mma\..*\.tf32\.tf32\.f32",
    "matrix of float64": r"mma\..*\.f64\.f64\.f64\.f64",
    "shuffle": r"(shfl|redux)\..*",
    "barrier": r"bar\.(warp\.)?sync",
    "control": r"bra(\.uni)?|ret",
    "shared": r"(ld|st)\.shared\..*|ldmatrix\..*",
    "copy": r"cp\.async\..*",
    "global": r"(ld|st)\.global\..*",
    "argument": r"ld\.param\..*",
    "move": r"(mov|cvta)\..*|cvt\.u\d\d\.u\d\d",
    "integer of 64 bits": r"selp\..64|(?!mul\.wide|cvt|div|rem)\w+(\.\w+)*\.[bsu]64",
    "division of float64": r"(div|rcp|sqrt)\.rn\.f64",
    "float16": r"(?!cvt)\w+(\.\w+)*\.b?f16(x2)?",
    "float64": r"\w+(\.\w+)*\.f64(\.\w+)?",
    "conversion": r"cvt\.(?!s64\.s32).*",
    "special": r"(ex2|rcp|sqrt|rsqrt|lg2)\.approx\..*",
    "division": r"(div|rem)\..*|(rcp|sqrt)\.rn\.f32",
    "integer": r"(selp|copysign)\..*|\w+(\.\w+)*\.(pred|[bsu]\d\d)",
    "float32": r"\w+(\.\w+)*\.f32",
}


def kind_of(opcode: str) -> str:
    """The kind of an instruction. Raises PtxError if it has none."""
    for kind, pattern in KINDS.items():
        if re.fullmatch(pattern, opcode):
            return kind
    raise PtxError(f"no kind of instruction has {opcode}")


class Counts:
    """Counts of one launch, or of several of one program."""

    def __init__(self, program: Program):
        self.program = program
        self.table = array("q", bytes(8 * len(FIELDS) * len(program.entry.instructions)))
        self.sectors = array("q", (0, 0))

    def instructions(self) -> list[tuple[int, str, dict[str, int]]]:
        """(line, text, its counts) of every instruction."""
        rows = zip(*[iter(self.table)] * len(FIELDS), strict=True)
        found = zip(self.program.entry.instructions, rows, strict=True)
        return [(each.line, each.text, dict(zip(FIELDS, row, strict=True))) for each, row in found]

    def total(self) -> Counter[str]:
        """Sums over all instructions. Sums of several launches may be added.

        By kind (`KINDS`), how many instructions warps executed; and "executed" and "lanes": of all kinds, and how many
        lanes acted. "sectors read", "sectors written": of 32 bytes, each access for itself; "least read", "least
        written": each sector once. "wavefronts", of which "conflicts" are due to bank conflicts; "parted": how often
        the lanes of a warp parted at a branch.
        """
        sums: Counter[str] = Counter()
        for instruction, (_, _, counts) in zip(self.program.entry.instructions, self.instructions(), strict=True):
            kind = kind_of(instruction.opcode)
            sums[kind] += counts["executed"]
            sums["executed"] += counts["executed"]
            sums["lanes"] += counts["lanes"]
            if kind == "global":
                what = "sectors read" if instruction.opcode.startswith("ld") else "sectors written"
                sums[what] += counts["transactions"]
            elif kind == "shared":
                sums["wavefronts"] += counts["transactions"]
                sums["conflicts"] += counts["conflicts"]
            elif kind == "control":
                sums["parted"] += counts["conflicts"]
        sums["least read"], sums["least written"] = self.sectors
        return sums
