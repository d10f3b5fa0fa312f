"""PTX of the CUDA kernels, as nvcc writes it for the oldest architecture that they run on.

A file of PTX is kept for as long as what it was made from is the same: the sources, nvcc and its options.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.compiled.cuda_kernels import SOURCES, flags, nvcc, sources, version

from ..emulation.build import BUILD
from .executor import File
from .syntax import PtxError

FOLDER = BUILD.parent / "ptx"
CUDA = Path("/usr/local/cuda")


def blocker() -> str | None:
    """Why there is no PTX here, or None."""
    if nvcc() is None:
        return "no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda"
    return next((f"no {name}" for name in ("c++filt", "nm") if not shutil.which(name)), None)


def _options() -> list[str]:
    return ["-std=c++20", *flags(), "-arch=compute_80", "-ptx", "-I", str(SOURCES)]


@functools.cache
def _made_from() -> str:
    """A digest of all that PTX is made from, but for the file itself."""
    digest = hashlib.sha256(" ".join([version(), *_options()[:-1]]).encode())
    for pattern in ("*.h", "*/*.h", "*/*/*.h", "*/*/*.cuh"):
        for header in sorted(SOURCES.glob(pattern)):
            digest.update(header.read_bytes())
    return digest.hexdigest()


def _compile(source: Path) -> Path:
    name = hashlib.sha256(_made_from().encode() + source.read_bytes()).hexdigest()[:16]
    out = FOLDER / f"{source.stem}-{name}.ptx"
    if not out.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        begun = out.with_suffix(f".{os.getpid()}")
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        run = subprocess.run([nvcc(), *_options(), source, "-o", begun], env=env, capture_output=True, text=True)
        if run.returncode:
            raise PtxError(f"nvcc can't compile {source.name}: {run.stderr[-4000:]}")
        begun.replace(out)
    return out


def compiled() -> list[File]:
    """The PTX of all of csrc/cuda."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return [File(path.read_text()) for path in pool.map(_compile, sources())]


def demangled(names: Iterable[str]) -> list[str]:
    """The names in C++ of mangled ones. Those of a namespace without a name are the same from every compiler."""
    given = "\n".join(names)
    said = subprocess.run(["c++filt"], input=given, capture_output=True, text=True, check=True).stdout
    return re.sub(r"\(anonymous namespace\)::", "", said).splitlines()
