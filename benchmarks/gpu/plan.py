"""The steps of ``make gpu``, in the order in which they run.

The first ones take some ten minutes and give the most valuable facts, in case there is no time for more: that it
builds, that both backends compute the right values, that no kernel reads or writes out of bounds, and the headline
table. All others follow in full.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..__main__ import MEASURES
from ..harness.results import ROOT
from .backends import OPS

PYTHON = sys.executable
PYTEST = (PYTHON, "-m", "pytest", "-q", "--durations=5")
PARITY = "tests/gpu/test_parity.py"
BOTH = ("triton", "cuda")

#: What Triton's interpreter can do of tests/gpu.
INTERPRETED = {"TRITON_INTERPRET": "1", "EQUIFAST_GPU_TESTS_ON": "cpu"}

#: Parts of tests/gpu, each within the limit: file, and what of it.
TESTS = {
    "parity": ("test_parity.py", ""),
    "gradients": ("test_gradients.py", ""),
    "modules": ("test_modules.py", ""),
    "streams": ("test_streams.py", ""),
    "overhead": ("test_overhead.py", ""),
    "memory": ("test_memory.py", ""),
    "timing": ("test_timing.py", ""),
    "configurations": ("test_configurations.py", "not real"),
    "configurations-float32": ("test_configurations.py", "real and float32"),
    "configurations-bfloat16": ("test_configurations.py", "real and bfloat16"),
}

#: Of the tests, those that an instrument a hundred times slower gets: every op in float32, and its options.
SLICE = "eager_definition and float32-3-contiguous"

#: Of the tests, those that come first: every op in two dtypes, and the laws that hold bit for bit.
FIRST_TESTS = f"({SLICE}) or (eager_definition and bfloat16-2) or laws_bit_for_bit"

#: Of the benchmarks, those whose main setting makes the headline table.
HEADLINE = ("canonicalize", "orbit_conv2d", "training")

SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats")
KERNELS = "regex:^_?(orbit|act|angle|contrastive|convolve|grad|sum_parts|pack|base)"


@dataclass(frozen=True)
class Step:
    """A command, and its form without a GPU or why there is none; ``{out}`` in them is the folder of results.

    ``minutes``: a guess of how long it takes with a GPU, as none has run any; ``limit``: the minutes that it gets.
    ``tool``: the program that it needs; ``backends``: those that have to be usable.
    """

    name: str
    command: tuple[str, ...]
    dry: tuple[str, ...] | str
    environment: dict[str, str] = field(default_factory=dict)
    dry_environment: dict[str, str] = field(default_factory=dict)
    minutes: float = 1.0
    limit: float = 8.0
    tool: str = ""
    backends: tuple[str, ...] = ()


def steps() -> Iterator[Step]:
    yield from first_steps()
    yield from all_tests()
    yield from sanitizers()
    yield counters()
    for op in OPS:
        command = (PYTHON, "-m", "benchmarks.gpu.backends", "--only", op)
        dry = (*command, "--dry-run") if op == "orbit_scores" else "backends-orbit_scores stands for it"
        yield Step(f"backends-{op}", command, dry, minutes=2, backends=BOTH)
    for name in MEASURES:
        command = (PYTHON, "-m", "benchmarks", "--only", name)
        dry = (*command, "--dry-run") if name == "overhead" else "benchmarks-overhead stands for it"
        yield Step(f"benchmarks-{name}", (*command, "--out", f"{{out}}/benchmarks/{name}"), dry, minutes=3)


def first_steps() -> Iterator[Step]:
    yield Step(
        "build",
        (PYTHON, "setup.py", "build_ext", "--inplace"),
        (PYTHON, "setup.py", "build_ext", "--build-lib", "{out}/built"),
        {"EQUIFAST_CUDA": "1"},
        {"EQUIFAST_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0"},
        minutes=2,
        tool="nvcc",
    )
    for backend in BOTH:
        command, only = (*PYTEST, PARITY, "-k", FIRST_TESTS), {"EQUIFAST_BACKEND": backend}
        dry = (*command, "--collect-only")
        yield Step(f"slice-{backend}", command, dry, only, only, minutes=1.5, limit=4, backends=(backend,))
    yield sanitizer("slice-memcheck", "memcheck", SLICE, minutes=1.5, limit=4)
    benchmarks = (PYTHON, "-m", "benchmarks", "--first", "--only", ",".join(HEADLINE))
    yield Step("headline", (*benchmarks, "--out", "{out}/headline"), (*benchmarks, "--dry-run"), minutes=3.5)


def all_tests() -> Iterator[Step]:
    for backend in BOTH:
        for part, (file, some) in TESTS.items():
            if part.startswith("configurations") and backend != "triton":
                continue  # CUDA C++ has one of each kernel
            command = (*PYTEST, f"tests/gpu/{file}", *(("-k", some) if some else ()))
            dry, environment = (*command, "--collect-only"), {"EQUIFAST_BACKEND": backend}
            if (backend, part) == ("triton", "parity"):
                dry, environment = (*command, "-k", "laws or kernels_run"), environment | INTERPRETED
            only = {"EQUIFAST_BACKEND": backend}
            yield Step(f"tests-{backend}-{part}", command, dry, only, environment, minutes=2, backends=(backend,))
        for file in sorted((ROOT / "tests/ops").glob("test_*.py")):
            command = (*PYTEST, f"tests/ops/{file.name}")
            on_gpu = {"EQUIFAST_BACKEND": backend, "EQUIFAST_TEST_DEVICE": "cuda"}
            dry_environment = {"EQUIFAST_BACKEND": "reference"}  # collecting needs a device that is there
            name, dry = f"tests-{backend}-{file.stem.removeprefix('test_')}", (*command, "--collect-only")
            yield Step(name, command, dry, on_gpu, dry_environment, backends=(backend,))


def sanitizers() -> Iterator[Step]:
    """All kernels in every dtype for accesses out of bounds, and the slice for races and misplaced barriers."""
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        yield sanitizer(f"memcheck-{dtype}", "memcheck", f"eager_definition and {dtype}", minutes=4)
    for check in ("racecheck", "synccheck"):
        yield sanitizer(check, check, SLICE, minutes=3)


def sanitizer(name: str, check: str, some: str, *, minutes: float, limit: float = Step.limit) -> Step:
    test = (PYTHON, "-m", "pytest", "-q", PARITY, "-k", some)
    tool = ("compute-sanitizer", "--tool", check, "--error-exitcode", "9")
    environment = {"EQUIFAST_BACKEND": "cuda", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    options = {"minutes": minutes, "limit": limit, "tool": tool[0], "backends": ("cuda",)}
    return Step(name, (*tool, *test), (*test, "--collect-only"), environment, **options)


def counters() -> Step:
    sections = [word for name in SECTIONS for word in ("--section", name)]
    return Step(
        "counters",
        ("ncu", *sections, "--kernel-name", KERNELS, "--csv", "--log-file", "{out}/counters.csv")
        + (PYTHON, "-m", "benchmarks.gpu.backends", "--once"),
        "ncu reads the counters of a GPU",
        {"EQUIFAST_AUTOTUNE": "0"},
        minutes=4,
        tool="ncu",
        backends=BOTH,
    )
