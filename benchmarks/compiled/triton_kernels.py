"""``python -m benchmarks.compiled.triton_kernels``: every Triton kernel and configuration compiled, for
architectures that need not be here: registers, spills, shared memory and matrix instructions. ``--write`` writes
docs/kernels.md with the oldest Triton that is supported, and docs/kernels_newest.md with any other; with ``--only``,
the sections of those kernels.

`calls` says for what: host functions are called on tensors in memory that nobody touches, under `tests.fake_gpu`; what
they would compile is taken down, and compiled in a few processes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from equifast.backends import OLDEST_TRITON

from ..harness.results import ROOT

ARCHS = (80, 90, 100)

#: The oldest Triton that is supported has a page of its own.
OLDEST = "{}.{}.".format(*OLDEST_TRITON)
DOCS = ROOT / "docs" / ("kernels.md" if triton.__version__.startswith(OLDEST) else "kernels_newest.md")

#: Matrix instructions, by what they are called in PTX.
INSTRUCTIONS = {"mma": r"\bmma\.sync", "wgmma": r"\bwgmma\.mma_async", "tcgen05": r"\btcgen05\.mma\b"}

#: Kernels whose time is that of a product.
MATRIX = {
    "orbit_conv2d",
    "orbit_conv2d_pool",
    "orbit_conv2d_grad_weight",
    "orbit_conv2d_grad_input",
    "orbit_linear_scores",
}


#: Architecture, kernel, problem and configuration.
Name = tuple[int, str, str, str]


class Work(NamedTuple):
    """One compilation."""

    arch: int
    kernel: str
    problem: str
    config: str
    source: ASTSource
    options: dict[str, Any]


class Row(NamedTuple):
    """What came of one. Bytes of spills are stores and loads."""

    arch: int
    kernel: str
    problem: str
    config: str
    registers: int
    spills: int
    shared: int
    instructions: list[str]
    seconds: float
    error: str = ""


class _Found(Exception):
    """Stops a launch before it compiles."""


def collect(arch: int, only: Sequence[str] = ()) -> list[Work]:
    """What the calls compile for an architecture, each once."""
    from equifast.kernels.host.launch import Kernel
    from tests.fake_gpu import FakeGpu

    from .triton_calls import calls

    found: dict[tuple, Work] = {}
    named: set[tuple[str, str, str]] = set()
    compile_one = Kernel._compile
    called = ""

    def compile_all(kernel, problem, config, tensors, reals):
        for each in problem.configs:
            with contextlib.suppress(_Found):
                part = ", edges" if problem.constants.get("IS_EDGE") else ""
                with knobs.runtime.scope():
                    knobs.runtime.jit_cache_hook = partial(take, kernel, called + part, str(each))
                    compile_one(kernel, problem, each, tensors, reals)
        return lambda tensors, reals: None

    def take(kernel, problem: str, config: str, /, **hooked) -> None:
        given = hooked["compile"]
        key = kernel.name, given["key"]
        if key not in found and (not only or kernel.name in only):
            source = ASTSource(kernel.function, given["signature"], given["constants"], given["configs"][0])
            options = json.loads(given["specialization_data"])["options"]
            options = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
            while (kernel.name, problem, config) in named:  # the same tiles for arguments of another kind
                problem += "′"
            named.add((kernel.name, problem, config))
            found[key] = Work(arch, kernel.name, problem, config, source, options)
        raise _Found

    with FakeGpu(arch).installed():
        Kernel._compile = compile_all
        try:
            for name, call in calls():
                called = name
                call()
        finally:
            Kernel._compile = compile_one
    return list(found.values())


def nearest(names: Iterable[Name], cells: Mapping[Name, str], of: str) -> set[Name]:
    """The names whose cells have the most registers, which are the nearest to spilling; what has no cell comes first.

    ``of``: "problem" for one of each problem, on one of its architectures by turns; "kernel" for one of each kernel on
    each architecture.
    """
    problems: dict[tuple[str, str], list[Name]] = {}
    for name in names:
        problems.setdefault(name[1:3], []).append(name)
    chosen: dict[tuple, list[Name]] = {}
    for i, (problem, found) in enumerate(problems.items()):
        archs = sorted({name[0] for name in found})
        for name in found:
            if of == "kernel":
                chosen.setdefault((name[0], name[1]), []).append(name)
            elif name[0] == archs[i % len(archs)]:
                chosen.setdefault(problem, []).append(name)
    return {max(found, key=lambda name: registers(cells.get(name, "256"))) for found in chosen.values()}


def compiled(work: Work) -> Row:
    """By Triton's own compiler and ptxas, past any cache."""
    begin = time.perf_counter()
    log, error, ptx, shared = io.StringIO(), "", "", 0
    with tempfile.TemporaryDirectory() as folder, knobs.compilation.scope(), knobs.nvidia.scope(), knobs.cache.scope():
        knobs.compilation.always_compile = True
        knobs.nvidia.dump_ptxas_log = True
        knobs.cache.dir = folder
        try:
            with contextlib.redirect_stdout(log):
                kernel = triton.compile(work.source, GPUTarget("cuda", work.arch, 32), work.options)
            ptx, shared = kernel.asm["ptx"], kernel.metadata.shared
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"[:500]
    text = log.getvalue()
    registers = re.search(r"Used (\d+) registers", text)
    return Row(
        *work[:4],
        registers=int(registers[1]) if registers else 0,
        spills=sum(map(int, re.findall(r"(\d+) bytes spill (?:stores|loads)", text))),
        shared=shared,
        instructions=[name for name, pattern in INSTRUCTIONS.items() if re.search(pattern, ptx)],
        seconds=time.perf_counter() - begin,
        error=error or ("" if registers else "ptxas said nothing of registers"),
    )


_WORK: list[Work] = []


def _compiled(index: int) -> Row:
    return compiled(_WORK[index])


def rows(work: list[Work], jobs: int) -> Iterator[Row]:
    """As they come; forked, since a source cannot be sent to another process."""
    _WORK[:] = work
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(_compiled, range(len(work)))


class Found(NamedTuple):
    """``names``: all there are; ``rows``: what was compiled of them."""

    page: str
    versions: str
    names: list[Name]
    rows: list[Row]


def store(found: Found, file: Path) -> None:
    given = found._asdict() | {"rows": [row._asdict() for row in found.rows]}
    file.write_text(json.dumps(given, indent=1, ensure_ascii=False) + "\n")


def stored(file: Path) -> Found:
    given = json.loads(file.read_text())
    names = [tuple(name) for name in given.pop("names")]
    return Found(names=names, rows=[Row(**row) for row in given.pop("rows")], **given)


def wants_matrix(name: Name) -> bool:
    """Whether its products are to run on matrix units, as all but the most precise are."""
    _, kernel, problem, _ = name
    return kernel in MATRIX and any(dtype in problem.split() for dtype in ("tf32", "bf16", "fp16"))


def instruction(row: Row) -> str:
    return "+".join(row.instructions) or "–"


def summary(cells: Iterable[str]) -> str:
    cells = list(cells)
    bad, most = sum(map(is_wrong, cells)), max(map(registers, cells))
    return f"{len(cells)} rows, {bad} with spills or errors, {most} registers at most"


def line(row: Row) -> str:
    what = row.error or f"{row.registers} registers, {row.spills} spilled, {row.shared} bytes, {instruction(row)}"
    mark = "!! " if row.spills or row.error else ""
    return f"{mark}sm_{row.arch} {row.kernel} [{row.problem}] [{row.config}]: {what} ({row.seconds:.1f} s)"


INTRODUCTION = """# Compiled kernels

Written by `python -m benchmarks.compiled.triton_kernels --write`; edits here will be lost. Every Triton kernel, for
each class of problems and every configuration worth trying there, the likeliest first, as Triton compiles it; no GPU is
needed for that. [kernels.md](kernels.md) is of the oldest Triton that is supported, and
[kernels_newest.md](kernels_newest.md) of the newest. `tests/compiled/test_triton_kernels.py` holds that nothing spills,
that shared memory suffices, and that products run on matrix units, but for float64 and for float32 in full precision
(`ieee`). It compiles the configuration of each problem that has the most registers here, with the newest Triton that of
each kernel, and finds the same cells. After a change of a kernel, `--write --only` and its name write its section anew.

Cells: registers of a thread / KiB of shared memory of a block, and the matrix instructions; *–*: not tried on this
architecture. What compiles to the same code as a row above is left out.
"""


def versions() -> str:
    tools = {"ptxas": knobs.nvidia.ptxas.path, "ptxas-blackwell": knobs.nvidia.ptxas_blackwell.path}
    said = {name: subprocess.check_output([path, "--version"], text=True) for name, path in tools.items()}
    named = [f"{name} {re.search(r'V([0-9.]+)', text)[1]}" for name, text in said.items()]
    return f"Triton {triton.__version__}; {named[0]} for sm_80 and sm_90, {named[1]} for sm_100."


def page(cells: Mapping[Name, str], versions: str) -> str:
    """docs/kernels.md, whose rows are in the order in which the cells first name them."""
    archs = sorted({name[0] for name in cells})
    parts = [INTRODUCTION, f"{versions} {summary(cells.values())}.\n"]
    for kernel in sorted({name[1] for name in cells}):
        parts.append(f"## {kernel}\n")
        parts.append(f"| problem | configuration | {' | '.join(f'sm_{arch}' for arch in archs)} |")
        parts.append(f"|---|---|{'---|' * len(archs)}")
        for _, problem, config in dict.fromkeys(name[1:] for name in cells if name[1] == kernel):
            row = [cells.get((arch, kernel, problem, config), "–") for arch in archs]
            parts.append(f"| {problem} | {config} | {' | '.join(row)} |")
        parts.append("")
    return "\n".join(parts)


def listed(text: str) -> dict[Name, str]:
    """The cells of such a page."""
    cells, kernel = {}, ""
    for line in text.splitlines():
        kernel = line[3:] if line.startswith("## ") else kernel
        if kernel and line.startswith("| ") and not line.startswith("| problem "):
            problem, config, *row = line[2:-2].split(" | ")
            found = {(arch, kernel, problem, config): cell for arch, cell in zip(ARCHS, row, strict=True)}
            cells |= {name: cell for name, cell in found.items() if cell != "–"}
    return cells


def cell(row: Row) -> str:
    if row.error:
        return row.error
    spilled = f", **{row.spills} bytes spilled**" if row.spills else ""
    return " ".join([f"{row.registers} / {row.shared / 1024:.3g}", *row.instructions]) + spilled


def instructions(cell: str) -> list[str]:
    return [name for name in INSTRUCTIONS if re.search(rf"\b{name}\b", cell)]


def shared(cell: str) -> float:
    """KiB; 0 of an error."""
    found = re.match(r"\d+ / (\S+?),?(?: |$)", cell)
    return float(found[1]) if found else 0.0


def registers(cell: str) -> int:
    """0 of an error."""
    found = re.match(r"\d+", cell)
    return int(found[0]) if found else 0


def is_wrong(cell: str) -> bool:
    return not registers(cell) or "spilled" in cell


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compiled.triton_kernels", description="Triton kernels, compiled."
    )
    parser.add_argument("--arch", default="80,90,100", help="comma-separated; default: 80,90,100")
    parser.add_argument("--only", default="", help="comma-separated names of kernels; default: all")
    parser.add_argument("--nearest", choices=("problem", "kernel"), help="compile the nearest to spilling of each")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 16), help="processes")
    parser.add_argument("--write", action="store_true", help=f"write docs/{DOCS.name}")
    parser.add_argument("--json", type=Path, help="store all names, and the rows that were compiled")
    options = parser.parse_args(given)
    options.arch = tuple(map(int, options.arch.split(",")))
    options.only = tuple(filter(None, options.only.split(",")))
    if options.write and (options.arch != ARCHS or options.nearest):
        parser.error("--write: only with all architectures and configurations")
    if options.write and options.only and f"{versions()} " not in DOCS.read_text():
        parser.error(f"--write --only: another Triton wrote docs/{DOCS.name}: leave out --only")
    return options


def main(given: list[str] | None = None) -> int:
    """1 if anything spills or fails."""
    options = arguments(given)
    torch.set_num_threads(1)
    begin = time.perf_counter()
    work = [each for arch in options.arch for each in collect(arch, options.only)]
    names = [each[:4] for each in work]
    before = listed(DOCS.read_text()) if DOCS.exists() else {}
    if options.nearest:
        chosen = nearest(names, before, options.nearest)
        work = [each for each in work if each[:4] in chosen]
    found = []
    for row in rows(work, options.jobs):
        found.append(row)
        print(line(row), flush=True)
    place = {name: i for i, name in enumerate(names)}
    found.sort(key=lambda row: place[row[:4]])
    cells = {row[:4]: cell(row) for row in found}
    print(f"{versions()}\n{summary(cells.values())}; {time.perf_counter() - begin:.0f} s")
    if options.json:
        store(Found(DOCS.name, versions(), names, found), options.json)
    if options.write:
        others = {name: text for name, text in before.items() if options.only and name[1] not in options.only}
        DOCS.write_text(page(others | cells, versions()))
    return int(any(row.spills or row.error for row in found))


if __name__ == "__main__":
    sys.exit(main())
