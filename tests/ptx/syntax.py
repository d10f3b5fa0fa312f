"""Reads PTX: a file's entries, and of an entry its parameter, registers, labels and instructions.

This is the part of the language that nvcc writes for this package. Anything else is an error that names the line.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class PtxError(Exception):
    """The PTX is not what the executor knows, or a kernel did what it must not."""


class Instruction(NamedTuple):
    """One instruction. ``tokens``: its operands, as `tokens` parts them."""

    line: int  # in the file, from 1
    text: str
    guard: str  # a predicate, perhaps after a "!", or nothing
    opcode: str
    tokens: list[str]


class Entry(NamedTuple):
    """A kernel."""

    name: str  # mangled
    parameter: str
    parameter_bytes: int
    most_threads: int
    shared: str  # the symbol of the memory that a launch gives to a block, or nothing
    widths: dict[str, int]  # bits of a register by the name that comes before its number; 1: a predicate
    instructions: list[Instruction]
    labels: dict[str, int]  # the index of the instruction after each


WIDTHS = {"pred": 1, "b16": 16, "b32": 32, "f32": 32, "b64": 64, "f64": 64}

_HEADER = re.compile(r"\.version \d+\.\d+|\.target sm_80|\.address_size 64")
_SHARED = re.compile(r"\.extern \.shared \.align 16 \.b8 (\w+)\[\];")
_ENTRY = re.compile(r"(?:\.visible )?\.entry (\w+)\(")
_PARAMETER = re.compile(r"\.param \.align 8 \.b8 (\w+)\[(\d+)\]")
_THREADS = re.compile(r"\.maxntid (\d+), 1, 1")
_REGISTERS = re.compile(r"\.reg \.(\w+)\s+(%[a-z]+)(?:<\d+>)?;")
#: Advice to whoever allocates registers, and the line that an entry begins with.
_IGNORED = re.compile(rf'\.pragma "(?:nounroll|used_bytes_mask \d+)";|\.minnctapersm \d+|{_ENTRY.pattern}')
_LABEL = re.compile(r"(\$\w+):")
_INSTRUCTION = re.compile(r"(?:@(!?%p\d+)\s+)?([a-z][\w.]*)\s*([^;]*);")
_TOKEN = re.compile(r"[\w.$%#]+|[{}\[\],|]|\+-?|-[\w.]+")


def tokens(operands: str) -> list[str]:
    """The names, numbers and punctuation of operands. An address is always ``[ base + offset ]``.

    The machine's table is read by it too: there a # stands for a number.
    """
    found: list[str] = []
    for token in _TOKEN.findall(operands):
        if token == "]" and found[-2] == "[":
            found += ["+", "0", "]"]
        elif token == "+-":
            found += ["+", "-"]
        elif found and found[-1] == "-":
            found[-1] += token
        else:
            found.append(token)
    return found


def sections(text: str) -> dict[str, tuple[int, list[str]]]:
    """The lines of each entry by its mangled name, with the number of the first; the lines before all, under ""."""
    lines, found, name = text.splitlines(), {}, ""
    starts = [i for i, line in enumerate(lines) if _ENTRY.match(line)] + [len(lines)]
    found[name] = 1, lines[: starts[0]]
    for begin, end in zip(starts, starts[1:], strict=False):
        found[_ENTRY.match(lines[begin])[1]] = begin + 1, lines[begin:end]
    return found


def shared_symbol(header: list[str]) -> str:
    """The symbol that the lines before all entries declare, or nothing."""
    symbol = ""
    for number, line in enumerate(map(_bare, header), 1):
        if found := _SHARED.fullmatch(line):
            symbol = found[1]
        elif line and not _HEADER.fullmatch(line):
            raise PtxError(f"line {number} isn't known before an entry: {line}")
    return symbol


def _bare(line: str) -> str:
    return line.partition("//")[0].strip()


def entry(first: int, lines: list[str], shared: str = "") -> Entry:
    """Parse the lines of an entry, of which the first has this number."""
    parameter, parameter_bytes, most_threads = "", 0, 1024
    widths: dict[str, int] = {}
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for number, line in enumerate(map(_bare, lines), first):
        while line.startswith("{"):
            line = line[1:].lstrip()
        if found := _INSTRUCTION.match(line):
            end = line[found.end() :].strip()
            if end.strip("}"):
                raise PtxError(f"line {number} has more than an instruction: {line}")
            guard, opcode, operands = found.groups()
            instructions.append(Instruction(number, found[0], guard or "", opcode, tokens(operands)))
        elif found := _LABEL.fullmatch(line):
            labels[found[1]] = len(instructions)
        elif found := _REGISTERS.fullmatch(line):
            kind, name = found.groups()
            if kind not in WIDTHS or widths.setdefault(name, WIDTHS[kind]) != WIDTHS[kind]:
                raise PtxError(f"line {number} declares registers that aren't known: {line}")
        elif found := _PARAMETER.fullmatch(line):
            if parameter:
                raise PtxError(f"line {number} declares a second parameter: {line}")
            parameter, parameter_bytes = found[1], int(found[2])
        elif found := _THREADS.fullmatch(line):
            most_threads = int(found[1])
        elif line.strip("()}") and not _IGNORED.fullmatch(line):
            raise PtxError(f"line {number} isn't known: {line}")
    name = _ENTRY.match(lines[0])[1]
    return Entry(name, parameter, parameter_bytes, most_threads, shared, widths, instructions, labels)
