"""Kernels on aarch64, cross-compiled and run by qemu-user: the same bits as on this machine.

``make test-aarch64`` asks for it. Torch isn't there for that processor, so a program calls the kernels on plain memory.
"""

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FLAGS = [
    "-std=c++20",
    "-O1",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
    "-DEQUIFAST_ISA=baseline",
]
CROSS, EMULATOR = "aarch64-linux-gnu-g++", ["qemu-aarch64"]

pytestmark = pytest.mark.skipif(
    os.environ.get("EQUIFAST_AARCH64") != "1", reason="EQUIFAST_AARCH64=1, as of make test-aarch64, asks for it"
)


def printed(folder, compiler, *options, emulator=()):
    """What the program prints that a compiler makes. A compiler or an emulator that is missing is an error."""
    program = folder / "kernels"
    sources = [HERE / "kernels.cpp", *sorted((ROOT / "csrc/cpu/kernels").glob("*.cpp"))]
    command = [compiler, *FLAGS, *options, "-I", ROOT / "csrc", *sources, "-o", program]
    made = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[:4000]
    return subprocess.run([*emulator, str(program)], check=True, capture_output=True, text=True).stdout.splitlines()


def test_kernels_leave_the_same_bits(tmp_path_factory):
    here = printed(tmp_path_factory.mktemp("here"), os.environ.get("CXX", "c++"), "-march=x86-64-v2")
    there = printed(tmp_path_factory.mktemp("there"), CROSS, "-static", emulator=EMULATOR)
    assert len(here) > 400 and len(set(here)) > 300
    assert there == here
