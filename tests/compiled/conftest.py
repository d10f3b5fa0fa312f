"""Triton's kernels, compiled once for all tests here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compiled import triton_kernels
from benchmarks.compiled.triton_kernels import Found

ROOT = Path(__file__).parents[2]

#: The folder of the newest Triton; ``make test-compiled`` sets it.
NEWEST = os.environ.get("EQUIFAST_NEWEST_TRITON", "")


def compile_nearest(of: str, file: Path, **environment: str) -> Found:
    """By a process of its own: there the tensors' device is a driver that is none."""
    command = [sys.executable, "-m", "benchmarks.compiled.triton_kernels", "--nearest", of, "--json", file]
    environment = os.environ | {"TRITON_INTERPRET": "0"} | environment
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert file.exists(), f"exit status {run.returncode}: {run.stdout[-1000:]}{run.stderr[-4000:]}"
    return triton_kernels.stored(file)


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Found:
    """Of each problem, for one of the architectures, the configuration that is nearest to spilling."""
    return compile_nearest("problem", tmp_path_factory.mktemp("compiled") / "rows.json")


@pytest.fixture(scope="session")
def newest(tmp_path_factory) -> Found:
    """That of each kernel for each architecture, by the newest Triton beside the one that is installed."""
    if not NEWEST:
        pytest.skip("EQUIFAST_NEWEST_TRITON names no folder: run make test-compiled")
    path = os.pathsep.join(filter(None, (NEWEST, os.environ.get("PYTHONPATH"))))
    return compile_nearest("kernel", tmp_path_factory.mktemp("newest") / "rows.json", PYTHONPATH=path)


@pytest.fixture(scope="session", params=["installed", "newest"])
def found(request) -> Found:
    return request.getfixturevalue(request.param)
