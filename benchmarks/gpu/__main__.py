"""``make gpu`` (``python -m benchmarks.gpu``): all that a machine with a GPU is for, in steps of a few minutes.

Builds in place, tests both backends, looks for races and reads counters, times the backends against each other, then
runs the benchmarks. Logs and results go to ``build/gpu``, or to ``$OUT``. A step that passed is not run again for the
same commit (``--again`` runs it); one that can't run here says why. ``--dry-run`` runs each step in the form that works
without a GPU: that shows that the steps are right, not that the kernels are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..__main__ import MEASURES
from ..harness.results import ROOT, _commit
from .backends import OPS

LIMIT_S = 8 * 60
BOTH = ("triton", "cuda")
PYTHON = sys.executable
PYTEST = (PYTHON, "-m", "pytest", "-q", "--durations=5")
PARITY = "tests/gpu/test_parity.py"

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
    "configurations": ("test_configurations.py", "not real"),
    "configurations-float32": ("test_configurations.py", "real and float32"),
    "configurations-bfloat16": ("test_configurations.py", "real and bfloat16"),
}

#: Of the tests, those that an instrument a hundred times slower gets: every op in float32, and its options.
SLICE = ("-k", "eager_definition and float32-3-contiguous")

SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats")
KERNELS = "regex:^_?(orbit|act|angle|contrastive|convolve|grad|sum_parts|pack|base)"


@dataclass(frozen=True)
class Step:
    """A command, and its form without a GPU or why there is none; ``{out}`` in them is the folder of results.

    ``tool``: the program that it needs; ``backends``: those that have to be usable.
    """

    name: str
    command: tuple[str, ...]
    dry: tuple[str, ...] | str
    environment: dict[str, str] = field(default_factory=dict)
    dry_environment: dict[str, str] = field(default_factory=dict)
    tool: str = ""
    backends: tuple[str, ...] = ()


def steps() -> Iterator[Step]:
    """In the order in which they run."""
    yield Step(
        "build",
        (PYTHON, "setup.py", "build_ext", "--inplace"),
        (PYTHON, "setup.py", "build_ext", "--build-lib", "{out}/built"),
        {"EQUIFAST_CUDA": "1"},
        {"EQUIFAST_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0"},
        tool="nvcc",
    )
    for backend in BOTH:
        for part, (file, some) in TESTS.items():
            if part.startswith("configurations") and backend != "triton":
                continue  # CUDA C++ has one of each kernel
            command = (*PYTEST, f"tests/gpu/{file}", *(("-k", some) if some else ()))
            dry, environment = (*command, "--collect-only"), {"EQUIFAST_BACKEND": backend}
            if (backend, part) == ("triton", "parity"):
                dry, environment = (*command, "-k", "laws or kernels_run"), environment | INTERPRETED
            only = {"EQUIFAST_BACKEND": backend}
            yield Step(f"tests-{backend}-{part}", command, dry, only, environment, backends=(backend,))
        for file in sorted((ROOT / "tests/ops").glob("test_*.py")):
            command = (*PYTEST, f"tests/ops/{file.name}")
            on_gpu = {"EQUIFAST_BACKEND": backend, "EQUIFAST_TEST_DEVICE": "cuda"}
            dry_environment = {"EQUIFAST_BACKEND": "reference"}  # collecting needs a device that is there
            name, dry = f"tests-{backend}-{file.stem.removeprefix('test_')}", (*command, "--collect-only")
            yield Step(name, command, dry, on_gpu, dry_environment, backends=(backend,))
    for check in ("memcheck", "racecheck"):
        test = (PYTHON, "-m", "pytest", "-q", PARITY, *SLICE)
        sanitizer = ("compute-sanitizer", "--tool", check, "--error-exitcode", "9")
        environment = {"EQUIFAST_BACKEND": "cuda", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        dry = (*test, "--collect-only")
        yield Step(check, (*sanitizer, *test), dry, environment, tool=sanitizer[0], backends=("cuda",))
    sections = [word for name in SECTIONS for word in ("--section", name)]
    yield Step(
        "counters",
        ("ncu", *sections, "--kernel-name", KERNELS, "--csv", "--log-file", "{out}/counters.csv")
        + (PYTHON, "-m", "benchmarks.gpu.backends", "--once"),
        "ncu reads the counters of a GPU",
        {"EQUIFAST_AUTOTUNE": "0"},
        tool="ncu",
        backends=BOTH,
    )
    for op in OPS:
        command = (PYTHON, "-m", "benchmarks.gpu.backends", "--only", op)
        dry = (*command, "--dry-run") if op == "orbit_scores" else "backends-orbit_scores stands for it"
        yield Step(f"backends-{op}", command, dry, backends=BOTH)
    for name in MEASURES:
        command = (PYTHON, "-m", "benchmarks", "--only", name)
        dry = (*command, "--dry-run") if name == "overhead" else "benchmarks-overhead stands for it"
        yield Step(f"benchmarks-{name}", (*command, "--out", f"{{out}}/benchmarks/{name}"), dry)


def find(tool: str) -> str | None:
    """A program of the CUDA toolkit, which may not be on PATH."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    return shutil.which(tool) or next(
        filter(None, (shutil.which(f"{home}/bin/{tool}") for home in homes if home)), None
    )


def why_not(step: Step, dry: bool) -> str | None:
    """Why a step can't run here, or None."""
    if dry and isinstance(step.dry, str):
        return step.dry
    if step.tool and find(step.tool) is None and (step.name == "build" or not dry):
        return f"no {step.tool} here" + ("; the libraries stay as they are" if step.name == "build" else "")
    reasons = {} if dry or not step.backends else available()
    return next((f"{name}: {reasons[name]}" for name in step.backends if reasons.get(name)), None)


def available() -> dict[str, str | None]:
    """Of a fresh process, which sees what was built meanwhile."""
    code = "import json; from equifast import backends; print(json.dumps(backends.available()))"
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env=environment({}), capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {"cuda": "equifast can't be imported"}


def environment(extra: dict[str, str]) -> dict[str, str]:
    """As it is, this tree first, and without what other runs may have left about backends."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    ours = ("EQUIFAST_BACKEND", "TRITON_INTERPRET")
    return {k: v for k, v in os.environ.items() if k not in ours} | {"PYTHONPATH": path} | extra


def capability() -> dict[str, str]:
    """For nvcc: this GPU, unless something else was asked for."""
    code = "import torch; print(*torch.cuda.get_device_capability(), sep='.')"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True)
    found = done.stdout.strip()
    return {"TORCH_CUDA_ARCH_LIST": found} if found and "TORCH_CUDA_ARCH_LIST" not in os.environ else {}


def run(step: Step, out: Path, dry: bool, limit: float = LIMIT_S) -> dict:
    """Runs a step; its record."""
    record = {"step": step.name, "commit": commit(), "dry": dry}
    if reason := why_not(step, dry):
        return record | {"skipped": reason}
    words = [word.replace("{out}", str(out)) for word in (step.dry if dry else step.command)]
    words[0] = find(words[0]) or words[0]
    extra = step.dry_environment if dry else step.environment
    if step.name == "build" and not dry:
        extra = extra | capability()
    begin = time.monotonic()
    with (out / f"{step.name}.log").open("w") as log:
        # In a group of its own, so that what it started ends with it.
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment(extra), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = 124
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = round(time.monotonic() - begin, 1)
    return record | {"command": words, "environment": extra, "status": code, "seconds": seconds, "passed": code == 0}


def commit() -> str:
    """Measuring changes a file of the tree, so changes are not told."""
    return _commit().split()[0]


def finished(step: Step, out: Path) -> bool:
    try:
        record = json.loads((out / f"{step.name}.json").read_text())
    except (OSError, ValueError):
        return False
    return record.get("passed", False) and record.get("commit") == commit()


def told(record: dict, out: Path) -> str:
    """A line about a step, with the last one of its log."""
    if "skipped" in record:
        return f"{record['step']}: skipped: {record['skipped']}"
    lines = (out / f"{record['step']}.log").read_text(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    how = "passed" if record["passed"] else "out of time" if record["status"] == 124 else "failed"
    return f"{record['step']}: {how} in {record['seconds']:.0f} s: {last.strip()[:160]}"


def merge(out: Path) -> None:
    """The measures' files as one, such as a full run of ``python -m benchmarks`` writes."""
    parts = [json.loads(path.read_text()) for path in sorted(out.glob("benchmarks/*/*.json"))]
    if parts:
        whole = {"conditions": parts[0]["conditions"]}
        whole |= {key: [row for part in parts for row in part[key]] for key in ("rows", "verdicts")}
        whole["configurations"] = {}
        for part in parts:
            for kernel, chosen in part.get("configurations", {}).items():
                whole["configurations"].setdefault(kernel, {}).update(chosen)
        (out / "benchmarks.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def selected(only: str, known: list[Step]) -> list[Step]:
    """Those named, or whose names begin so."""
    names = list(filter(None, only.split(",")))
    for name in names:
        if not any(matches(step, name) for step in known):
            raise ValueError(f"--only: {name!r} is none of {', '.join(step.name for step in known)}")
    return [step for step in known if not names or any(matches(step, name) for name in names)]


def matches(step: Step, name: str) -> bool:
    return step.name == name or step.name.startswith(name + "-")


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Everything that needs a GPU.")
    parser.add_argument("--only", default="", help="comma-separated steps, or how their names begin: tests-cuda")
    parser.add_argument("--again", action="store_true", help="also what passed before")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU")
    parser.add_argument("--list", action="store_true", help="name the steps")
    options = parser.parse_args(given)
    try:
        chosen = selected(options.only, list(steps()))
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(step.name for step in chosen))
        return 0
    out = Path(os.environ.get("OUT") or ROOT / "build" / "gpu").resolve() / ("dry" if options.dry_run else "")
    out.mkdir(parents=True, exist_ok=True)
    if options.dry_run:
        print("Dry run: each step as far as it goes without a GPU. No kernel is tested, nothing is measured.")
    elif not has_gpu():
        print("No GPU here: torch.cuda.is_available() is false. --dry-run tries the steps without one.")
        return 1
    failed = []
    for step in chosen:
        if finished(step, out) and not options.again:
            print(f"{step.name}: passed before")
            continue
        record = run(step, out, options.dry_run)
        (out / f"{step.name}.json").write_text(json.dumps(record, indent=1) + "\n")
        failed += [] if record.get("passed", "skipped" in record) else [step.name]
        print(told(record, out), flush=True)
    merge(out)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} steps without failure; logs and results in {out}")
    return 1 if failed else 0


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
