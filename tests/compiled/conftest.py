"""Triton's kernels, compiled once for all tests here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compiled import triton_kernels
from benchmarks.compiled.triton_kernels import Row

ROOT = Path(__file__).parents[2]


def compile_rows(file: Path, *arguments: str | Path, **environment: str) -> tuple[list[Row], str]:
    """By a process of its own: there the tensors' device is a driver that is none. Its rows, and what it said."""
    command = [sys.executable, "-m", "benchmarks.compiled.triton_kernels", "--json", file, *arguments]
    environment = os.environ | {"TRITON_INTERPRET": "0"} | environment
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert file.exists(), f"exit status {run.returncode}: {run.stdout[-1000:]}{run.stderr[-4000:]}"
    return triton_kernels.stored(file), run.stdout


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> list[Row]:
    """All that there is in one third of the time; ``python -m benchmarks.compiled.triton_kernels`` takes all
    architectures for each."""
    return compile_rows(tmp_path_factory.mktemp("compiled") / "rows.json", "--in-turn")[0]
