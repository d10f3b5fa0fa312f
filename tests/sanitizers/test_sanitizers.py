"""The library for CPUs under sanitizers, a report of which ends the process: drawn and malformed arguments of every op.

``EQUIFAST_SANITIZED_MARCH`` chooses what the kernels are compiled for; ``make test-sanitizers`` takes all.
"""

import subprocess
import sys

import pytest

from ..backend import only
from ..emulation.build import SANITIZERS, blocker
from .build import ROOT, environment

REPORTS = {"address": ("ERROR: AddressSanitizer", "runtime error:"), "thread": ("WARNING: ThreadSanitizer",)}

#: The tests that a sanitizer watches. Malformed arguments are refused before there are threads.
WATCHED = {
    "address": ["tests/laws/test_drawn.py", "tests/laws/test_malformed.py"],
    "thread": ["tests/laws/test_drawn.py"],
}

#: The mistakes of planted.cpp that each finds, and how it names them.
PLANTED = {
    ("address", "overflow"): "heap-buffer-overflow",
    ("address", "underflow"): "heap-buffer-overflow",
    ("address", "undefined"): "signed integer overflow",
    ("thread", "race"): "data race",
}

pytestmark = [
    pytest.mark.slow,
    only("cpu", because="it is about the library for CPUs"),
    pytest.mark.skipif(blocker() is not None, reason=str(blocker())),
]


def run(name, *arguments, **variables):
    command = [sys.executable, *arguments]
    env = environment(name, **variables)
    return subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("name", SANITIZERS)
def test_sanitizers_have_nothing_to_report(name):
    options = ["-x", "-q", "-s", "-p", "no:cacheprovider", "-p", "tests.sanitizers.plugin"]
    done = run(name, "-m", "pytest", *options, *WATCHED[name], EQUIFAST_TEST_EXAMPLES="10")
    about = f"exit status {done.returncode}: {done.stdout[:6000]} … {done.stdout[-3000:]}"
    assert done.returncode == 0 and " passed" in done.stdout and f"/{name}\n" in done.stdout, about
    assert not any(report in done.stdout for report in REPORTS[name]), about


@pytest.mark.parametrize(("name", "mistake"), PLANTED)
def test_sanitizers_find_planted_mistakes(name, mistake):
    code = f"""
import os, torch
torch.ops.load_library(os.environ["EQUIFAST_SANITIZED"])
torch.ops.equifast_planted.{mistake}(torch.ones(100))
"""
    done = run(name, "-c", code)
    assert done.returncode != 0 and PLANTED[name, mistake] in done.stdout, done.stdout
