"""Builds the library for CPUs for sanitizers, as CMakeLists.txt here says: ``python -m tests.sanitizers.build``."""

from __future__ import annotations

import fcntl
import functools
import os
import sys
import time
from pathlib import Path

import torch

from ..emulation.build import SANITIZERS, preloaded, run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: What kernels are compiled for: the oldest CPUs, unless this variable says avx2 or avx512.
MARCH = os.environ.get("EQUIFAST_SANITIZED_MARCH") or "baseline"


@functools.cache
def build(*targets: str) -> Path:
    """The folder that has `libraries`: ``address`` and ``thread``, or those that are named, up to date."""
    folder = ROOT / "build" / f"sanitizers-{MARCH}"
    folder.parent.mkdir(exist_ok=True)
    options = [f"-DEQUIFAST_TORCH_DIR={Path(torch.__file__).parent}", f"-DEQUIFAST_MARCH={MARCH}"]
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("cmake", "-S", HERE, "-B", folder, "-G", "Ninja", *options)
        run("cmake", "--build", folder, "--target", *(targets or SANITIZERS))
    return folder


def environment(name: str, **variables: str) -> dict[str, str]:
    """Of a process in which `tests.sanitizers.plugin` loads the library of a sanitizer."""
    return os.environ | preloaded(name) | {"EQUIFAST_SANITIZED": str(build(name) / "libraries" / name)} | variables


if __name__ == "__main__":
    begin = time.perf_counter()
    print(build(*sys.argv[1:]), f"{time.perf_counter() - begin:.1f} s")
