"""Builds the CUDA kernels for the CPU, as CMakeLists.txt here says: ``python -m tests.emulation.build``.

``EQUIFAST_EMULATION=address`` (or ``thread``) chooses the variant that tests run; a sanitizer has to be in the process
before Python is: it needs the rest of `environment` too. So does ``ptx``, the kernels as nvcc compiles them
(tests/ptx).
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "emulation"

#: What each is told, and the library that has to be loaded first. Leaks would be those of torch or Python.
SANITIZERS = {
    "address": {
        "ASAN_OPTIONS": "detect_leaks=0:exitcode=66:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=66",
    },
    "thread": {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66"},
}
#: The variants whose kernels are executed in PTX: those that nvcc compiles, and those that Triton compiles.
#: AddressSanitizer tells the executor what memory there is.
PTX, TRITON = "ptx", "triton"
#: Build tools may lie beside this interpreter alone.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")])
#: AddressSanitizer has to find what throws exceptions when a process starts.
RUNTIMES = dict.fromkeys(("address", PTX, TRITON), ["libasan.so", "libstdc++.so.6"])
RUNTIMES["thread"] = ["libtsan.so", "libstdc++.so.6"]
VARIANTS = ("plain", *SANITIZERS)


def variant() -> str:
    """That tests of this process run."""
    return os.environ.get("EQUIFAST_EMULATION", "plain")


def environment(name: str) -> dict[str, str]:
    """Of a process that loads what was built for a variant."""
    return os.environ | preloaded(name) | {"EQUIFAST_EMULATION": name, "EQUIFAST_BACKEND": "reference"}


def preloaded(name: str) -> dict[str, str]:
    """What a process needs that loads what a sanitizer watches."""
    if name not in RUNTIMES:
        return {"OMP_NUM_THREADS": "1"}
    asked = [[os.environ.get("CXX", "c++"), f"-print-file-name={library}"] for library in RUNTIMES[name]]
    paths = [subprocess.check_output(command, text=True).strip() for command in asked]
    return SANITIZERS.get(name, SANITIZERS["address"]) | {"LD_PRELOAD": " ".join(paths), "OMP_NUM_THREADS": "1"}


def blocker() -> str | None:
    """Why nothing can be built here, or None."""
    if sys.platform != "linux":
        return f"the emulation isn't for {sys.platform}"
    return next((f"no {name}" for name in ("cmake", "ninja", "c++") if not shutil.which(name, path=PATH)), None)


def run(*command: str | Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | {"PATH": PATH}
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{run.stdout[-8000:]}{run.stderr[-4000:]}")


@functools.cache
def _configure() -> None:
    torch_dir = Path(torch.__file__).parent
    run("cmake", "-S", HERE, "-B", BUILD, "-G", "Ninja", f"-DEQUIFAST_TORCH_DIR={torch_dir}")


@functools.cache
def build(*targets: str) -> Path:
    """Libraries or executables, up to date: where the first of them is. One process builds at a time."""
    BUILD.parent.mkdir(exist_ok=True)
    with BUILD.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _configure()
        run("cmake", "--build", BUILD, "--target", *targets)
    return BUILD / targets[0]


if __name__ == "__main__":
    begin = time.perf_counter()
    print(build(*(sys.argv[1:] or VARIANTS)), f"{time.perf_counter() - begin:.1f} s")
