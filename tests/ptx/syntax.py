"""Reads PTX: a file's entries, and of an entry its parameter, registers, labels and instructions.

This is the part of the language that nvcc and Triton write for this package. Anything else is an error that names the
line.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class PtxError(RuntimeError):
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
    parameters: dict[str, int]  # where each begins in the argument
    parameter_bytes: int
    least_threads: int
    most_threads: int
    shared: str  # the symbol of the memory that a launch gives to a block, or nothing
    widths: dict[str, int]  # bits of a register by the name that comes before its number; 1: a predicate
    instructions: list[Instruction]
    labels: dict[str, int]  # the index of the instruction after each


WIDTHS = {"pred": 1, "b16": 16, "b32": 32, "f32": 32, "b64": 64, "f64": 64}

_HEADER = re.compile(r"\.version \d+\.\d+|\.target sm_80|\.address_size 64")
#: Text that libdevice looks at when it is compiled, and that no instruction mentions.
_UNUSED = re.compile(r"\.global \.align 1 \.b8 _\$_str(?:_\$_\d+)?\[\d+\] = \{[\d, ]+\};")
_SHARED = re.compile(r"\.extern \.shared \.align 16 \.b8 (\w+)\[\];")
_ENTRY = re.compile(r"(?:\.visible )?\.entry (\w+)\(")
_STRUCTURE = re.compile(r"\.param \.align 8 \.b8 (\w+)\[(\d+)\]")
_PARAMETER = re.compile(r"\.param \.[uf](32|64)(?: \.ptr \.global \.align 1)? (\w+),?")
_THREADS = re.compile(r"\.(maxntid|reqntid) (\d+)(?:, 1, 1)?")
_REGISTERS = re.compile(r"\.reg \.(\w+)\s+(%[a-z]+)(?:<\d+>)?;")
#: Advice to whoever allocates registers, and the line that an entry begins with.
_IGNORED = re.compile(rf'\.pragma "(?:nounroll|used_bytes_mask \d+)";|\.(?:minnctapersm|maxnreg) \d+|{_ENTRY.pattern}')
_LABEL = re.compile(r"(\$\w+):")
_INSTRUCTION = re.compile(r"(?:@(!?%p\d+)\s+)?([a-z][\w.]*)\s*([^;]*);")
_TOKEN = re.compile(r"[\w.$%#]+|[{}\[\],|]|\+-?|-[\w.]+")
_HEXADECIMAL = re.compile(r"0x([0-9a-fA-F]+)U?")
#: An instruction, or two, with a register of their own, of which they need a half alone.
_SCOPE = re.compile(r"\{ \.reg \.b(16|32) tmp; (.*) \}")


def tokens(operands: str) -> list[str]:
    """The names, numbers and punctuation of operands. An address is always ``[ base + offset ]``, and there are no
    braces around one register.

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
        elif token == "}" and found[-2] == "{":
            del found[-2]
        elif number := _HEXADECIMAL.fullmatch(token):
            found.append(str(int(number[1], 16)))
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
        elif line and not _HEADER.fullmatch(line) and not _UNUSED.fullmatch(line):
            raise PtxError(f"line {number} isn't known before an entry: {line}")
    return symbol


def _bare(line: str) -> str:
    return line.partition("//")[0].strip()


def entry(first: int, lines: list[str], shared: str = "") -> Entry:
    """Parse the lines of an entry, of which the first has this number."""
    parameters: dict[str, int] = {}
    parameter_bytes, least_threads, most_threads = 0, 1, 1024
    widths: dict[str, int] = {}
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for number, line in enumerate(map(_bare, lines), first):
        if found := _SCOPE.fullmatch(line):
            name = f"%tmp{'w' if found[1] == '32' else 'h'}"
            widths[name] = int(found[1])
            line = re.sub(r"\btmp\b", name, found[2])
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
        elif found := _STRUCTURE.fullmatch(line):
            if parameters:
                raise PtxError(f"line {number} declares a second parameter: {line}")
            parameters[found[1]], parameter_bytes = 0, int(found[2])
        elif found := _PARAMETER.fullmatch(line):
            size = int(found[1]) // 8
            parameters[found[2]] = parameter_bytes + -parameter_bytes % size
            parameter_bytes = parameters[found[2]] + size
        elif found := _THREADS.fullmatch(line):
            most_threads = int(found[2])
            least_threads = most_threads if found[1] == "reqntid" else 1
        elif line.strip("()}") and not _IGNORED.fullmatch(line):
            raise PtxError(f"line {number} isn't known: {line}")
    name = _ENTRY.match(lines[0])[1]
    return Entry(name, parameters, parameter_bytes, least_threads, most_threads, shared, widths, instructions, labels)
