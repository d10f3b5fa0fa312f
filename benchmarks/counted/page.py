"""Writes docs/counted.md."""

from __future__ import annotations

from collections.abc import Sequence

from ..compiled.cuda_kernels import version
from ..harness.results import ROOT
from . import problems
from .machines import LANES, MACHINES, MATRIX, SECTOR, SLOTS, floor, issued, seconds
from .problems import Found, Problem

DOCS = ROOT / "docs" / "counted.md"

#: Columns of instructions, and the kinds that each sums.
COLUMNS = {
    "integer": ("integer", "integer of 64 bits", "division"),
    "float32": ("float32",),
    "float64": ("float64", "division of float64"),
    "conversions": ("conversion", "special"),
    "matrix": tuple(MATRIX),
    "shuffles": ("shuffle",),
    "shared": ("shared",),
    "global": ("global",),
    "control": ("control", "barrier"),
}


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def instructions(found: Found) -> list[str]:
    """Instructions of a GPU for each value, column by column, all together, and how many lanes act in them."""
    counts, lanes = found.counts, LANES / found.values
    cells = [sum(SLOTS.get(kind, 1) * counts[kind] for kind in kinds) * lanes for kinds in COLUMNS.values()]
    active = counts["lanes"] / (LANES * counts["executed"])
    return [*map(_number, cells), _number(issued(counts) * lanes), f"{active:.0%}"]


def memory(found: Found) -> list[str]:
    """Sectors, wavefronts, barriers and branches, for 1000 values."""
    counts, thousand = found.counts, 1000 / found.values
    names = ("sectors read", "least read", "sectors written", "least written")
    cells = [_number(counts[name] * thousand) for name in names]
    cells.append(_number(found.tensor_bytes / SECTOR * thousand))
    conflicts = counts["conflicts"] / counts["wavefronts"] if counts["wavefronts"] else 0
    cells += [_number(counts["wavefronts"] * thousand), f"{conflicts:.0%}"]
    return [*cells, _number(counts["barrier"] * thousand), _number(counts["parted"] * thousand)]


def times(problem: Problem, found: Found) -> list[str]:
    """For each GPU: the time of the whole batch, the unit that takes it, and the floor."""
    kind = {"TF32": "matrix of tf32", "bfloat16": "matrix of 16 bits"}.get(problem.kind, "float32")
    cells = []
    for machine in MACHINES:
        by_unit = seconds(machine, found.counts)
        unit = max(by_unit, key=lambda name: by_unit[name])
        least = floor(machine, found.tensor_bytes, found.operations, kind)
        micro = 1e6 * problem.batch
        cells += [f"{_number(by_unit[unit] * micro)} ({unit})", _number(least * micro), f"{by_unit[unit] / least:.2f}×"]
    return cells


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)] + [""]


def row(problem: Problem, found: Found) -> list[list[str]]:
    """The rows of a problem in the three tables."""
    first = [problem.name, problem.kind]
    return [[*first, *instructions(found)], [*first, *memory(found)], [*first, *times(problem, found)]]


def _of_kinds() -> list[str]:
    return [f"| {column} | {', '.join(kinds)} |" for column, kinds in COLUMNS.items()]


INTRODUCTION = """# Counted CUDA kernels

Written by `python -m benchmarks.counted --write`; edits here will be lost. The executor of `tests/ptx` runs the kernels
of csrc/cuda as nvcc {version} compiles them for sm_80, warp by warp, and counts what they do. No GPU is needed for
that, and none has measured these times: they are *predicted from counted instructions*.

**Scale.** Images have their true size, and batches are small: the counts of a batch of two less those of a batch of
one, which is what one more image costs. Every further image costs the same, so the times below are those of the whole
batch: 256 images, or 512 samples of losses. The executor has one multiprocessor, so the weight gradient is cut into
fewer parts than on a GPU. A *value* is a number of the output; where an op sums (gradients, inner products), it is a
number that is summed, of every member of the orbit or of every member's convolution.
"""

MEANING = f"""## Instructions for each value

How many instructions of a lane each value takes: those that warps execute, times {LANES}, whether lanes act in them or
not; *active* is the share of lanes that do. PTX is not machine code. A GPU does integers of 64 bits by halves, so they
count twice, and a division {SLOTS["division"]} times; moves and reads of the kernel's argument become part of other
instructions and don't count. ptxas makes one instruction of some pairs, such as a shift and an addition, which is not
taken into account. *float64* has conversions from and to float64, *control* has barriers.
"""

MEMORY = f"""## Memory for 1000 values

*Sectors* of {SECTOR} bytes of global memory: as the accesses of warps touch them, each for itself, and how many
different ones a launch touches, which is the *least*; then those that all tensors of the call have. What is between
the first two is for caches to serve. *Wavefronts* of shared memory, and the share of them that is due to bank
conflicts: of 32 banks of four bytes, a wavefront has one word of each; lanes go by half warps where they access 8
bytes, and by quarters where 16. *Barriers* that warps came to, and how often the lanes of a warp parted at a branch.
"""

TIMES = """## Time, predicted from counted instructions

Microseconds of the unit that takes longest, if it never waits for another; *floor*: each tensor goes through memory
once, or the multiply-adds of a convolution at the peak of their unit, whichever takes longer; and the ratio. A ratio
below 1 is that of an op that needn't read all of its tensors. Latency, the last wave of blocks, the clock under load
and what ptxas makes of PTX are not in it.

| | H100 SXM | RTX 4090 | source |
|---|---|---|---|
"""

STAYS = """## What stays, and why

* **float64** finds where the rows and columns of a tile read, in the forward pass of an interpolation and in `angle`:
  to the last bit as the definition does, on which law 1 rests. Two of eight warps do it, once for each tile and member.
  Where it is the longest unit of an RTX 4090, the table above says so.
* **Integers** are most of what is left: addresses of pixels in 64 bits, since images may lie anywhere in memory; and
  nine candidates for each pixel of a transposed interpolation, of which about four are readers.
* **Registers of the narrow product in 16 bits**: 80, for six blocks on a multiprocessor. Seven would need 72, and at
  80 ptxas spills as soon as a loop that stages the tile is unrolled.
* **Sectors** are read about as often as interpolated members have pixels there. Neighbouring lanes share them, and so
  do warps of one block, so L1 can serve them.
* **Bank conflicts** are mostly those of patches of eight by four pixels, in tiles whose rows are an odd number of
  words apart, as whole rows and columns want them.
"""

RATES = (
    ("memory, GB/s", lambda m: m.bandwidth / 1e9, "data sheets of both"),
    ("multiprocessors", lambda m: m.processors, "whitepapers of Hopper and Ada"),
    ("boost clock, MHz", lambda m: m.clock / 1e6, "the clock of the peak rates of the whitepapers"),
    ("matrix, 16 bits, TFLOP/s", lambda m: m.matrix["matrix of 16 bits"] / 1e12, "dense, sums in float32"),
    ("matrix, tf32, TFLOP/s", lambda m: m.matrix["matrix of tf32"] / 1e12, "dense"),
    ("float32, results per cycle", lambda m: m.float32, "CUDA C++ Programming Guide, throughput of instructions"),
    ("float64", lambda m: m.float64, "the same"),
    ("integers of 32 bits", lambda m: m.integer, "the same"),
    ("conversions, exponentials", lambda m: m.special, "the same, of the special function unit"),
    ("shuffles", lambda m: m.shuffle, "the same"),
    ("instructions issued, of warps", lambda m: m.schedulers, "four schedulers"),
    ("shared memory and L1, bytes", lambda m: 128, "32 banks of four bytes"),
)


def page(rows: Sequence[tuple[Problem, Found]]) -> str:
    """The page for these problems."""
    tables = list(zip(*(row(*each) for each in rows), strict=True))
    parts = [INTRODUCTION.format(version=version()), MEANING]
    parts += _table(["problem", "dtype", *COLUMNS, "all", "active"], tables[0])
    heads = ["read", "least", "written", "least", "of tensors", "wavefronts", "conflicts", "barriers", "parted"]
    parts += [MEMORY, *_table(["problem", "dtype", *heads], tables[1])]
    parts += [TIMES.rstrip()]
    parts += [
        f"| {name} | {_number(rate(MACHINES[0]))} | {_number(rate(MACHINES[1]))} | {source} |"
        for name, rate, source in RATES
    ]
    heads = [head for machine in MACHINES for head in (f"{machine.name}, µs", "floor", "ratio")]
    return "\n".join([*parts, "", *_table(["problem", "dtype", *heads], tables[2]), STAYS])


def _costliest(problem: Problem, count: int) -> list[str]:
    """The instructions of each kernel that a batch of two executes most often."""
    lines = []
    for name, counts in problems.launches(problem, 2)[0]:
        lines.append(f"{name}: {counts.total()}")
        rows = sorted(counts.instructions(), key=lambda row: -row[2]["executed"])
        for line, instruction, of in rows[:count]:
            active = of["lanes"] / (LANES * max(of["executed"], 1))
            lines.append(f"{of['executed']:11} {active:4.0%} {line}: {instruction}")
    return lines


def main(only: str, lines: int, write: bool) -> None:
    """Count the problems whose name has ``only`` in it, print the page and, if asked, write it."""
    rows = []
    for problem in problems.problems():
        if only in f"{problem.name} {problem.kind}":
            rows.append((problem, problems.found(problem)))
            if lines:
                print("\n".join(_costliest(problem, lines)))
    text = page(rows)
    if write:
        DOCS.write_text(text)
    print(text)
