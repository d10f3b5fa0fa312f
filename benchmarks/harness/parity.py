"""Which operations are wrong? A plot of how fast a wrong one is would mislead, so it is not drawn."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from .results import ROOT

#: The laws of each operation, and those of a whole pipeline.
LAWS = {path.stem.removeprefix("test_"): path for path in sorted((ROOT / "tests" / "ops").glob("test_*.py"))}
WHOLE = ROOT / "tests" / "laws" / "test_canonicalization.py"


def tests_of(measure: str) -> set[Path]:
    """The test files that what a measure times rests on: those of its operation, or all for a whole pipeline."""
    named = [op for op in LAWS if measure == op or measure.startswith((f"{op},", f"{op} "))]
    if not named:
        return {WHOLE, *LAWS.values()}
    op = max(named, key=len)
    return {path for name, path in LAWS.items() if name in (op, f"{op}_backward")}


#: How the tests run on the kernels that were timed, or counted in PTX.
RUNS = {"cpu": ("pytest",), "cuda": ("pytest",), "ptx": ("tests.ptx", "--few")}


def red(files: Iterable[Path], kind: str) -> set[Path]:
    """Run the tests, and return the files in which one failed. All of them, if they could not run."""
    files = sorted(files)
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "report.xml")
        command = [sys.executable, "-m", *RUNS[kind], "-q", "--tb=line", "--continue-on-collection-errors"]
        command += [f"--junit-xml={told}", *map(str, files)]
        environment = os.environ | ({"EQUIFAST_TEST_DEVICE": "cuda"} if kind == "cuda" else {})
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr)
        cases = list(ElementTree.parse(told).iter("testcase")) if told.exists() else []
    failed = {_file(case) for case in cases if case.find("failure") is not None or case.find("error") is not None}
    found = {path for path in files if path in failed}
    return set(files) if done.returncode and not found else found


def _file(case: ElementTree.Element) -> Path:
    """The file of a test case. If it could not be imported, the case has the name of the module."""
    name = case.get("classname") or case.get("name") or ""
    parts = name.split(".")
    return next(
        (path for n in range(len(parts), 0, -1) if (path := ROOT.joinpath(*parts[:n]).with_suffix(".py")).exists()),
        ROOT,
    )
