"""Lets the executor run what host code launches: the kernels of a library that g++ compiled, by the PTX that nvcc made.

``launch`` in emulation.h has the address of a function. The library's symbols tell its name, which is that of an entry.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from .compiled import demangled
from .counts import Counts
from .executor import File, run
from .program import Program
from .syntax import PtxError

_LAUNCHER = ctypes.CFUNCTYPE(
    ctypes.c_void_p,
    *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64),
)


class Entry(NamedTuple):
    """A kernel of a file."""

    file: File
    name: str  # mangled

    @property
    def program(self) -> Program:
        return self.file.entry(self.name)

    def edited(self, edit: Callable[[str], str]) -> Entry:
        """The kernel after a change of its text."""
        return Entry(self.file.edited(self.name, edit), self.name)


class Launches:
    """Runs the launches of a library by the entries of these files, from now on and for as long as it lives."""

    def __init__(self, library: Path, files: Iterable[File]):
        #: The entries by their names in C++.
        self.entries: dict[str, Entry] = {}
        for file in files:
            names = list(file.lines)
            self.entries |= {name: Entry(file, given) for name, given in zip(demangled(names), names, strict=True)}
        #: The names of those that have run.
        self.ran: set[str] = set()
        #: If it is a list, every launch is counted, and its kernel and counts are appended.
        self.counted: list[tuple[str, Counts]] | None = None
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
            program = self.entries[name].program
            counts = None if self.counted is None else Counts(program)
            run(program, blocks, threads, shared, args, args_bytes, counts)
            if self.counted is not None and counts:
                self.counted.append((name, counts))
            self.ran.add(name)
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
