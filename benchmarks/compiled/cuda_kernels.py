"""``python -m benchmarks.compiled.cuda_kernels``: every CUDA kernel compiled by nvcc, for architectures that need not
be here, and linked: registers, spills, shared memory, blocks that fit and matrix instructions. ``--write`` writes
docs/cuda_kernels.md.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from ..harness.results import ROOT
from . import cuda_launches

SOURCES = ROOT / "csrc"
DOCS = ROOT / "docs" / "cuda_kernels.md"

#: Matrix instructions, by what they are called in machine code, or else in PTX.
INSTRUCTIONS = {
    "HMMA": (r"\bHMMA\.", r"\bmma\.sync\S*\.(?:f16|bf16|tf32)\b"),
    "HGMMA": (r"\bHGMMA\.", r"\bwgmma\.mma_async"),
    "DMMA": (r"\bDMMA\.", r"\bmma\.sync\S*\.f64\b"),
}

#: Kernels whose time is that of a product, and of which numbers matrix units take it: of float32 as tf32, where a
#: caller allows that. Which kernels these are, the names of their products say.
MATRIX = ("convolve", "grad_weight")
MATRIX_TYPES = ("float16", "bfloat16", "float32")

#: What a multiprocessor holds: warps, blocks and registers, which a warp takes 256 at a time.
WARPS = {80: 64, 90: 64, 100: 64, 103: 64}
BLOCKS = {80: 32, 90: 32, 100: 32, 103: 32}
REGISTERS = 65536


class Row(NamedTuple):
    """One kernel for one architecture. Bytes of spills are stores and loads; shared ones, those known beforehand."""

    source: str
    kernel: str
    kind: str
    arch: str
    registers: int
    spills: int
    stack: int
    shared: int
    threads: int
    blocks: int
    instructions: list[str]


class Report(NamedTuple):
    """``errors``: of compilers and the linker, by file; ``missing``: symbols of our own that nothing defines."""

    rows: list[Row]
    errors: dict[str, str]
    missing: list[str]
    seconds: dict[str, float]


@functools.cache
def nvcc() -> str | None:
    homes = [home for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda") if home]
    return next(filter(None, map(shutil.which, ["nvcc", *(f"{home}/bin/nvcc" for home in homes)])), None)


def _said(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


@functools.cache
def archs() -> tuple[str, ...]:
    """The oldest that the kernels run on, one with instructions of its own, and the newest that nvcc knows."""
    known = sorted(map(int, re.findall(r"\bsm_(\d+)\b", _said(nvcc(), "--list-gpu-code"))))
    return tuple(dict.fromkeys(("80", "90a", str(known[-1]))))


@functools.cache
def disassembler() -> str | None:
    """cuobjdump, of which Triton has one too."""
    spec = importlib.util.find_spec("triton")
    folder = Path(spec.origin).parent / "backends" / "nvidia" / "bin" if spec and spec.origin else None
    return shutil.which("cuobjdump") or (shutil.which("cuobjdump", path=folder) if folder else None)


@functools.cache
def version() -> str:
    return re.search(r"V([\d.]+)", _said(nvcc(), "--version"))[1]


def flags() -> list[str]:
    """As CMakeLists.txt has them."""
    return re.search(r"set\(CUDA_FLAGS ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())[1].split()


def sources() -> list[Path]:
    """The largest first: they take the longest."""
    return sorted(SOURCES.glob("cuda/*/*.cu"), key=lambda file: -file.stat().st_size)


def _compile(command: Sequence[str | Path], output: Path) -> tuple[str, str]:
    """What the compiler said, and the error if there was one."""
    run = subprocess.run([*command, "-c", "-o", output], capture_output=True, text=True)
    text = run.stdout + run.stderr
    return text, "" if run.returncode == 0 else f"exit status {run.returncode}: {text[-4000:]}"


def compile_kernels(source: Path, folder: Path, targets: Sequence[str]) -> tuple[list[Row], str]:
    """Into ``folder``: an object for these architectures, and PTX of the last."""
    keep = folder / f"{source.stem}.kept"
    keep.mkdir()
    chosen = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in targets]
    chosen.append(f"-gencode=arch=compute_{targets[-1]},code=compute_{targets[-1]}")
    command = [
        nvcc(),
        "-std=c++20",
        *flags(),
        "-Xcompiler",
        "-fPIC",
        "-I",
        SOURCES,
        *chosen,
        "-Xptxas",
        "-v",
    ]
    text, error = _compile([*command, "--keep", "--keep-dir", keep, source], folder / f"{source.stem}.cu.o")
    if error:
        return [], error
    found = []
    for mangled, arch, properties in _properties(text):
        (ptx,) = [*keep.glob(f"*compute_{arch}.ptx"), *keep.glob(f"{source.stem}.ptx")]  # the second, of one for all
        code = _code(keep, arch)
        entry = _entries(ptx.read_text()).get(mangled, "")
        threads = re.search(r"\.maxntid (\d+)", entry)
        body = code.get(mangled, "") if code else entry
        kernel, kind = _named(mangled)
        row = {
            "source": source.name,
            "kernel": kernel,
            "kind": kind,
            "arch": arch,
            "threads": int(threads[1]) if threads else 1024,
            "instructions": [name for name, found in INSTRUCTIONS.items() if re.search(found[0 if code else 1], body)],
            **properties,
        }
        found.append(Row(**row, blocks=resident(arch, row["registers"], row["threads"])))
    return found, "" if found else f"ptxas said nothing of registers: {text[-2000:]}"


def _properties(text: str) -> Iterator[tuple[str, str, dict[str, int]]]:
    """(mangled name, architecture, registers and bytes) of each kernel, from what ptxas says."""

    def number(pattern: str, part: str) -> int:
        return sum(map(int, re.findall(pattern, part)))

    for part in text.split("Compiling entry function ")[1:]:
        mangled, arch = re.match(r"'(\w+)' for 'sm_(\w+)'", part).groups()
        yield (
            mangled,
            arch,
            {
                "registers": number(r"Used (\d+) registers", part),
                "spills": number(r"(\d+) bytes spill (?:stores|loads)", part),
                "stack": number(r"(\d+) bytes stack frame", part),
                "shared": number(r"(\d+) bytes smem", part),
            },
        )


@functools.lru_cache(maxsize=4)
def _entries(ptx: str) -> dict[str, str]:
    return {part.split("(", 1)[0].strip(): part for part in re.split(r"^(?:\.visible )?\.entry ", ptx, flags=re.M)[1:]}


@functools.lru_cache(maxsize=4)
def _code(keep: Path, arch: str) -> dict[str, str]:
    """Machine code of each kernel, or nothing if there is nothing that shows it."""
    cubins = sorted(keep.glob(f"*compute_{arch}.cubin")) + sorted(keep.glob(f"*.sm_{arch}.cubin"))
    if not disassembler() or not cubins:
        return {}
    parts = re.split(r"^\s*Function : ", _said(disassembler(), "-sass", cubins[0]), flags=re.M)[1:]
    return {part.split(None, 1)[0]: part for part in parts}


@functools.cache
def _enumerations() -> dict[str, list[str]]:
    text = "\n".join(file.read_text() for file in sorted(SOURCES.glob("cuda/*/*.h")))
    found = re.findall(r"enum class (\w+)[^{;]*\{([^}]*)\}", text)
    return {name: [value.strip() for value in values.split(",")] for name, values in found}


@functools.cache
def _named(mangled: str) -> tuple[str, str]:
    """A kernel's name and the arguments of its template, as they are in its source."""
    name = _said("c++filt", mangled).strip() if shutil.which("c++filt") else mangled
    name = re.sub(r"equifast::cuda::|\(anonymous namespace\)::|^void ", "", name)
    for enumeration, values in _enumerations().items():
        name = re.sub(rf"\({enumeration}\)(\d+)", lambda found, values=values: values[int(found[1])], name)
    kernel, kind = re.match(r"(\w+)(?:<(.*)>)?\(|(?:\w+)", name + "(").groups()
    kind = re.sub(r"\b(half|float|double)\b", lambda found: _TYPES[found[1]], kind or "")
    return (kernel or name).removesuffix("_kernel"), kind.strip()


_TYPES = {"half": "float16", "float": "float32", "double": "float64"}


def resident(arch: str, registers: int, threads: int) -> int:
    """Blocks that one multiprocessor holds at once, as far as registers and threads decide."""
    number, warps = int(re.sub(r"\D", "", arch)), -(-threads // 32)
    per_warp = -(-max(registers, 1) * 32 // 256) * 256
    # Warps are spread over four schedulers, each with a quarter of the registers.
    by_registers = REGISTERS // 4 // per_warp * 4 // warps
    return min(by_registers, WARPS.get(number, 48) // warps, BLOCKS.get(number, 24))


def occupancy(row: Row) -> float:
    number = int(re.sub(r"\D", "", row.arch))
    return row.blocks * -(-row.threads // 32) / WARPS.get(number, 48)


@functools.cache
def _cuda_headers() -> Path:
    """nvcc's own, which may be called through a link or a script elsewhere."""
    dry = subprocess.run([nvcc(), "--dryrun", "-c", sources()[0]], capture_output=True, text=True)
    return Path(re.search(r"^#\$ TOP=(.+)$", dry.stdout + dry.stderr, flags=re.M)[1], "include")


def compile_host(source: Path, folder: Path) -> str:
    include = Path(torch.__file__).parent / "include"
    command = [os.environ.get("CXX", "c++"), "-std=c++20", "-O0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
    command += ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-I", SOURCES]
    command += ["-I", folder, "-isystem", include, "-isystem", _cuda_headers(), source]
    return _compile(command, folder / f"{source.stem}.cpp.o")[1]


def link(folder: Path) -> tuple[str, list[str]]:
    """What is torch's may be missing, not what is ours."""
    library = folder / "_cuda.so"
    run = subprocess.run(
        [nvcc(), "-shared", "-cudart", "static", *sorted(folder.glob("*.o")), "-o", library],
        capture_output=True,
        text=True,
    )
    if run.returncode:
        return run.stdout + run.stderr, []
    undefined = _said("nm", "--dynamic", "--undefined-only", library).split()
    return "", [name for name in undefined if "equifast" in name or name.startswith("cuda")]


def targets_of(files: Sequence[Path], in_turn: bool) -> list[tuple[str, ...]]:
    """The architectures of each file: all, or ``in_turn`` one of them, which takes less than half of the time."""
    return [archs()[i % len(archs()) :][:1] if in_turn else archs() for i in range(len(files))]


def compiled(jobs: int, files: Sequence[Path] | None = None, *, in_turn: bool = False) -> Report:
    """All kernels, or those of some files, which are not linked. ``in_turn``: each file for one architecture."""
    seconds: dict[str, float] = {}

    def timed(function, source: Path, *given):
        begin = time.perf_counter()
        result = function(source, Path(folder), *given)
        seconds[source.name] = round(time.perf_counter() - begin, 1)
        return result

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        lines = (ROOT / "equifast" / "ops" / "schemas.txt").read_text().splitlines()
        literals = "".join(f'R"schema({line})schema",\n' for line in lines if line and not line.startswith("#"))
        Path(folder, "schemas.h").write_text(f"inline constexpr const char* kSchemas[] = {{{literals}}};\n")
        chosen = files or sources()
        kernels = {
            source: pool.submit(timed, compile_kernels, source, targets)
            for source, targets in zip(chosen, targets_of(chosen, in_turn), strict=True)
        }
        hosts = [] if files else sorted((*SOURCES.glob("common/*.cpp"), *SOURCES.glob("cuda/*/*.cpp")))
        errors = {source: pool.submit(timed, compile_host, source) for source in hosts}
        said = {source.name: work.result()[1] for source, work in kernels.items()}
        said |= {source.name: work.result() for source, work in errors.items()}
        rows = [row for work in kernels.values() for row in work.result()[0]]
        missing: list[str] = []
        if not files and not any(said.values()):
            said["link"], missing = link(Path(folder))
    rows.sort(key=lambda row: (row.source, row.kernel, row.kind, archs().index(row.arch)))
    return Report(rows, {name: error for name, error in said.items() if error}, missing, seconds)


def wants_matrix(row: Row) -> bool:
    return row.kernel in MATRIX and "Matrix" in row.kind


def summary(report: Report) -> str:
    spilled = sum(row.spills > 0 for row in report.rows)
    most = max((row.registers for row in report.rows), default=0)
    return f"{len(report.rows)} kernels, {spilled} with spills, {len(report.errors)} errors, {most} registers at most"


def cell(row: Row | None) -> str:
    if row is None:
        return "–"
    words = [f"{row.registers} / {row.blocks} × {row.threads} / {occupancy(row):.0%}"]
    words += [f"{row.shared} bytes"] * (row.shared > 0) + [f"stack {row.stack}"] * (row.stack > 0)
    words += [f"**{row.spills} bytes spilled**"] * (row.spills > 0)
    return ", ".join([*words, *row.instructions])


INTRODUCTION = """# Compiled CUDA kernels

Written by `python -m benchmarks.compiled.cuda_kernels --write`; edits here will be lost. Every kernel of csrc/cuda as
nvcc compiles it with the flags of CMakeLists.txt; no GPU is needed for that. `tests/compiled/test_cuda_kernels.py`
holds that nothing spills, and that products run on matrix units, but for float64 and for float32 in full precision. It
compiles each file for one of the architectures, and holds these cells against that.

Cells: registers of a thread / blocks × threads that a multiprocessor holds at once / the warps among all that it could.
Blocks are as large as `__launch_bounds__` lets them be, and what a launch asks for of shared memory is not counted: it
may leave room for fewer, see the last table. After these, shared memory and stack that the kernel has anyway, and its
matrix instructions.
"""


def page(report: Report) -> str:
    rows = report.rows
    cells = {(row.source, row.kernel, row.kind, row.arch): row for row in rows}
    parts = [INTRODUCTION, f"nvcc {version()}, `{' '.join(flags())}`. {summary(report)}.\n"]
    for source in sorted({row.source for row in rows}):
        parts.append(f"## {source}\n")
        parts.append(f"| kernel | of | {' | '.join(f'sm_{arch}' for arch in archs())} |")
        parts.append(f"|---|---|{'---|' * len(archs())}")
        for kernel, kind in dict.fromkeys((row.kernel, row.kind) for row in rows if row.source == source):
            line = [cell(cells.get((source, kernel, kind, arch))) for arch in archs()]
            parts.append(f"| {kernel} | {kind} | {' | '.join(line)} |")
        parts.append("")
    return "\n".join([*parts, *cuda_launches.lines()])


def main(given: list[str] | None = None) -> int:
    """1 if anything spills or fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compiled.cuda_kernels", description="CUDA kernels, compiled."
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once")
    parser.add_argument("--write", action="store_true", help="write docs/cuda_kernels.md")
    parser.add_argument("--json", type=Path, help="store what was found")
    options = parser.parse_args(given)
    if nvcc() is None:
        parser.error("no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda")
    begin = time.perf_counter()
    report = compiled(options.jobs)
    for row in report.rows:
        print(f"{'!! ' if row.spills else ''}{row.source} {row.kernel}<{row.kind}> sm_{row.arch}: {cell(row)}")
    for name, error in report.errors.items():
        print(f"!! {name}: {error}")
    for name in report.missing:
        print(f"!! undefined: {name}")
    print(f"{summary(report)}; {time.perf_counter() - begin:.0f} s")
    if options.json:
        known = report._replace(rows=[row._asdict() for row in report.rows])._asdict()
        options.json.write_text(json.dumps(known, indent=1) + "\n")
    if options.write:
        DOCS.write_text(page(report))
    return int(bool(report.errors or report.missing or any(row.spills for row in report.rows)))


if __name__ == "__main__":
    sys.exit(main())
