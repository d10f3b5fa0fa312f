"""GPUs by their data sheets, and the time that each of their units needs for what was counted."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

LANES = 32
SECTOR = 32  # bytes

#: Operations of one matrix instruction: 16 × 8 sums of 16 products, or of 8.
MATRIX = {"matrix of 16 bits": 2 * 16 * 8 * 16, "matrix of tf32": 2 * 16 * 8 * 8}

#: How many instructions of a GPU one of PTX becomes, where that isn't one. Moves and arguments of kernels become part
#: of others. Those of 64 bits are done by halves; of the sequences for divisions these are rough lengths.
SLOTS = {"move": 0, "argument": 0, "integer of 64 bits": 2, "division": 16, "division of float64": 16}


class Machine(NamedTuple):
    """A GPU. Rates of units: results of a multiprocessor per clock cycle; of matrix units: operations per second."""

    name: str
    processors: int
    clock: float  # per second
    bandwidth: float  # of memory, bytes per second
    float64: int
    matrix: dict[str, float]

    # The same for both, by the CUDA C++ Programming Guide's table of the throughput of native arithmetic instructions.
    integer: int = 64
    float32: int = 128
    special: int = 16
    shuffle: int = 32
    schedulers: int = 4  # of a multiprocessor, each of which issues one instruction per cycle

    def cycles(self, count: float, rate: float) -> float:
        """The seconds of so many results, or instructions, at this rate of each multiprocessor."""
        return count / (rate * self.processors * self.clock)


MACHINES = (
    Machine(
        name="H100 SXM",
        processors=132,
        clock=1.98e9,
        bandwidth=3.35e12,
        float64=64,
        matrix={"matrix of 16 bits": 989e12, "matrix of tf32": 494e12},
    ),
    Machine(
        name="RTX 4090",
        processors=128,
        clock=2.52e9,
        bandwidth=1.008e12,
        float64=2,
        matrix={"matrix of 16 bits": 165.2e12, "matrix of tf32": 82.6e12},
    ),
)


def slots(counts: Counter[str], *kinds: str) -> float:
    """How many instructions of a GPU those of these kinds become."""
    return sum(SLOTS.get(kind, 1) * counts[kind] for kind in kinds)


def issued(counts: Counter[str]) -> float:
    """How many instructions of a GPU all become."""
    return counts["executed"] + sum((count - 1) * counts[kind] for kind, count in SLOTS.items())


def seconds(machine: Machine, counts: Counter[str]) -> dict[str, float]:
    """The time of each unit of a GPU, if it never waits. The longest is the roofline."""

    def lanes(rate: int, *kinds: str) -> float:
        return machine.cycles(LANES * slots(counts, *kinds), rate)

    sectors = counts["sectors read"] + counts["sectors written"]
    return {
        "memory": SECTOR * (counts["least read"] + counts["least written"]) / machine.bandwidth,
        "issue": machine.cycles(issued(counts), machine.schedulers),
        "integer": lanes(machine.integer, "integer", "integer of 64 bits", "division"),
        "float32": lanes(machine.float32, "float32"),
        "float64": lanes(machine.float64, "float64", "division of float64"),
        "special": lanes(machine.special, "conversion", "special"),
        "shuffle": lanes(machine.shuffle, "shuffle"),
        "matrix": sum(MATRIX[kind] * counts[kind] / machine.matrix[kind] for kind in MATRIX),
        # 128 bytes per cycle, of shared memory or of the cache that is in the same place.
        "L1": machine.cycles(counts["wavefronts"] + sectors * SECTOR / 128, 1),
    }


def floor(machine: Machine, tensor_bytes: float, operations: float, kind: str) -> float:
    """The seconds that no kernel can beat: each tensor goes through memory once; or the arithmetic, if it takes longer.

    ``kind``: a key of `MATRIX`, or "float32" for multiply-adds of that.
    """
    flops = machine.matrix.get(kind) or 2 * machine.float32 * machine.processors * machine.clock
    return max(tensor_bytes / machine.bandwidth, operations / flops)
