"""Lets the executor run what host code launches: the kernels of a library that g++ compiled, by the PTX that nvcc made.

``launch`` in emulation.h has the address of a function. The library's symbols tell its name, which is that of an entry.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .compiled import demangled
from .executor import File, run
from .syntax import PtxError

_LAUNCHER = ctypes.CFUNCTYPE(
    ctypes.c_void_p,
    *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64),
)


class Launches:
    """Runs the launches of a library by the entries of these files, from now on and for as long as it lives."""

    def __init__(self, library: Path, files: Iterable[File]):
        self.entries: dict[str, tuple[File, str]] = {}
        for file in files:
            names = list(file.lines)
            self.entries |= {name: (file, given) for name, given in zip(demangled(names), names, strict=True)}
        self.names = _functions(library)
        self.error = b""
        self.launcher = _LAUNCHER(self._launch)
        self.library = ctypes.CDLL(str(library))
        self.library.launch_by(self.launcher)

    def _launch(self, place: int, blocks: int, threads: int, shared: int, args: int, args_bytes: int) -> int | None:
        """Returns the address of an error's text, since no exception goes through C++."""
        try:
            name = self.names[place]
            if name not in self.entries:
                raise PtxError(f"no PTX of {name}")
            file, entry = self.entries[name]
            run(file.entry(entry), blocks, threads, shared, args, args_bytes)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}".encode()
            return ctypes.cast(self.error, ctypes.c_void_p).value
        return None


def _functions(library: Path) -> dict[int, str]:
    """The names of a library's functions by where they begin in it."""
    said = subprocess.run(["nm", library], capture_output=True, text=True, check=True).stdout
    symbols = [words for words in map(str.split, said.splitlines()) if len(words) == 3 and words[1] in "tTW"]
    names = demangled(name for _, _, name in symbols)
    return {int(place, 16): name for (place, _, _), name in zip(symbols, names, strict=True)}
