"""``make gpu`` (``python -m benchmarks.gpu``): all that a machine with a GPU is for, in steps of a few minutes.

The most valuable facts come first, in some ten minutes. Then everything follows in full: tests of both backends,
sanitizers, counters, the backends against each other, benchmarks (`plan` has the order, and ``--list`` prints it). Logs
and results go to ``build/gpu``, or to ``$OUT``. A step that passed is not run again for the same commit (``--again``
runs it); one that can't run here says why. ``--dry-run`` runs each step in the form that works without a GPU: that
shows that the steps are right, not that the kernels are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from itertools import accumulate
from pathlib import Path

from ..__main__ import UNFINISHED
from ..harness.results import ROOT, _commit
from .plan import PYTHON, Step, steps


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


def run(step: Step, out: Path, dry: bool) -> dict:
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
            code = process.wait(60 * step.limit)
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
    """The measures' files as one, such as a full run of ``python -m benchmarks`` writes.

    Of a measure whose last run was cut off, what that had stored until then.
    """
    found = sorted(path for suffix in (".json", UNFINISHED) for path in out.glob(f"benchmarks/*/*{suffix}"))
    files = {path.parent.name: path for path in sorted(found, key=lambda path: path.suffix == UNFINISHED)}
    parts = [json.loads(files[name].read_text()) for name in sorted(files)]
    if parts:
        unfinished = [name for name in sorted(files) if files[name].suffix == UNFINISHED]
        whole = {"conditions": parts[0]["conditions"], "unfinished": unfinished}
        whole |= {key: [row for part in parts for row in part.get(key, [])] for key in ("rows", "verdicts", "states")}
        whole["states"].sort(key=lambda state: state["at"])
        whole["configurations"] = {}
        for part in parts:
            for kernel, chosen in part.get("configurations", {}).items():
                whole["configurations"].setdefault(kernel, {}).update(chosen)
        (out / "benchmarks.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def listed(known: list[Step]) -> str:
    """The steps in their order: the minutes after which each should be done, its own, and its limit."""
    done = accumulate(step.minutes for step in known)
    head = " done at  minutes  limit  step; minutes are guesses, since no GPU has run any"
    return "\n".join(
        [head, *(f"{at:8.1f} {s.minutes:8.1f} {s.limit:6.1f}  {s.name}" for at, s in zip(done, known, strict=True))]
    )


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
    parser.add_argument("--list", action="store_true", help="name the steps in their order, with minutes")
    options = parser.parse_args(given)
    try:
        chosen = selected(options.only, list(steps()))
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print(listed(chosen))
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
    raise SystemExit(main())
