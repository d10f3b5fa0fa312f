"""Whether freed memory stays with the process, by the pages that are mapped for new tensors."""

import os
import subprocess
import sys

import pytest

from equifast.allocator import VARIABLES, keep_freed_memory

PROGRAM = """
import resource, torch
from equifast.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(64 << 18).add(1)  # two of 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
first, kept = faults(), keep_freed_memory()
faults()
print(int(kept), first, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
def test_freed_memory_is_kept():
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    kept, before, after = map(int, done.stdout.split())
    assert kept and after < before / 10


@pytest.mark.parametrize("name", VARIABLES)
def test_the_environment_decides_first(name, monkeypatch):
    monkeypatch.setenv(name, "1048576")
    assert not keep_freed_memory()
