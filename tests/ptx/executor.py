"""Executes entries of PTX on tensors in the memory of this process."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from ..emulation.build import build
from . import syntax
from .counts import Counts
from .program import LANES, Program, assemble, table
from .syntax import Entry, PtxError


class _Program(ctypes.Structure):
    _fields_ = [
        ("codes", ctypes.c_void_p),
        ("count", ctypes.c_int32),
        ("row_bytes", ctypes.c_int32),
        ("constants", ctypes.c_char_p),
        ("constant_bytes", ctypes.c_int32),
        ("thread_row", ctypes.c_int32),
        ("block_row", ctypes.c_int32),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    """The machine, built."""
    found = ctypes.CDLL(str(build("ptx")))
    found.ptx_is_watched.restype = ctypes.c_bool
    if not found.ptx_is_watched():
        raise PtxError("the executor asks AddressSanitizer what memory there is: run it by python -m tests.ptx")
    found.ptx_run.restype = ctypes.c_char_p
    return found


def decoded(entry: Entry) -> Program:
    """An entry, for `run`. Raises PtxError if the machine doesn't know one of its instructions."""
    machine = library()
    return assemble(entry, table(machine), machine.ptx_parameter_address(), machine.ptx_shared_address())


class File:
    """The text of a file in PTX. An entry is decoded when it is first asked for."""

    def __init__(self, text: str):
        self.lines = syntax.sections(text)
        _, self.header = self.lines.pop("")
        self.shared = syntax.shared_symbol(self.header)
        self.entry: Callable[[str], Program] = functools.cache(self._entry)

    def _entry(self, name: str) -> Program:
        return decoded(syntax.entry(*self.lines[name], self.shared))

    def edited(self, name: str, edit: Callable[[str], str]) -> File:
        """A file with the header of this one, and one entry after a change of its text."""
        first, lines = self.lines[name]
        return File("\n".join([*self.header, *[""] * (first - 1 - len(self.header)), edit("\n".join(lines))]))


def run(
    program: Program, blocks: int, threads: int, shared: int, args: int, args_bytes: int, counts: Counts | None = None
) -> None:
    """Run a kernel on ``blocks`` blocks of ``threads`` threads with ``shared`` bytes each.

    ``args``: the address of its argument. ``counts``, if given, gets what the launch does. Raises PtxError if the
    launch isn't one that the kernel allows, or if it does what it must not: then the error names the kernel, the
    instruction, the thread and the address.
    """
    entry = program.entry
    if args_bytes != entry.parameter_bytes:
        raise PtxError(f"{entry.name} takes {entry.parameter_bytes} bytes of arguments, and {args_bytes} were passed")
    if not entry.least_threads <= threads <= entry.most_threads or threads % 32:
        allowed = f"{entry.least_threads} to {entry.most_threads} threads"
        raise PtxError(f"{entry.name} runs in whole warps of {allowed}, not in {threads}")
    codes, _ = program.codes.buffer_info()
    sizes = b"".join(n.to_bytes(4, "little") * LANES for n in (threads, blocks))  # %ntid.x and %nctaid.x
    constants = program.constants + sizes
    given = _Program(
        codes,
        len(entry.instructions),
        program.row_bytes,
        constants,
        len(constants),
        program.special["%tid.x"],
        program.special["%ctaid.x"],
    )
    at = ctypes.c_int32()
    wrong = library().ptx_run(
        ctypes.byref(given),
        ctypes.c_int64(blocks),
        ctypes.c_int32(threads),
        ctypes.c_int64(shared),
        ctypes.c_void_p(args),
        ctypes.c_int64(args_bytes),
        ctypes.byref(at),
        ctypes.c_void_p(counts.table.buffer_info()[0] if counts else None),
        ctypes.c_void_p(counts.sectors.buffer_info()[0] if counts else None),
    )
    if wrong:
        instruction = entry.instructions[at.value]
        raise PtxError(f"{wrong.decode()}\nin line {instruction.line}: {instruction.text}\nof {entry.name}")
