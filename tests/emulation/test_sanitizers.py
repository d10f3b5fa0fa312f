"""A part of the laws, run by the emulated kernels in processes that sanitizers watch: a report ends them."""

import subprocess
import sys
from pathlib import Path

import pytest

from .build import SANITIZERS, build, environment, variant

HERE = Path(__file__).parent
REPORTS = ("ERROR: AddressSanitizer", "runtime error:", "WARNING: ThreadSanitizer")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(variant() != "plain", reason="is what it runs")]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """All at once, each with a file of what it says."""
    build(*SANITIZERS)
    options = ["-m", "sanitized", "-x", "-q", "-s", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "tests/ops", "tests/laws/test_definitions.py", *options]
    processes = {}
    for name in SANITIZERS:
        file = tmp_path_factory.mktemp(name) / "said.txt"
        with file.open("w") as said:
            process = subprocess.Popen(
                command, cwd=HERE.parent.parent, env=environment(name), stdout=said, stderr=subprocess.STDOUT
            )
        processes[name] = process, file
    yield processes
    for process, _ in processes.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", SANITIZERS)
def test_sanitizers_have_nothing_to_report(name, started):
    process, file = started[name]
    status = process.wait(timeout=1200)
    said = file.read_text()
    about = f"exit status {status}: {said[:6000]} … {said[-3000:]}"
    assert status == 0 and " passed" in said and not any(report in said for report in REPORTS), about
