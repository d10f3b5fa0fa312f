"""Turns the instructions of an entry into what machine.h executes: numbers of instructions and offsets of registers."""

from __future__ import annotations

import ctypes
import functools
import re
from array import array
from typing import NamedTuple

from .syntax import Entry, Instruction, PtxError, tokens

LANES = 32
OPERANDS = 16

#: The width in bits of a register, by the letter that stands for it in the machine's table.
LETTERS = {"p": 1, "h": 16, "w": 32, "d": 64}

#: The first two are the same for every thread of a launch, and are the first rows after the constants.
SPECIAL = ("%ntid.x", "%nctaid.x", "%tid.x", "%ctaid.x")

_REGISTER = re.compile(r"(%[a-z]+)\d*")


class Known(NamedTuple):
    """An instruction of the machine's table: its index there, and its operands as `tokens` parts them."""

    index: int
    pattern: list[str]
    written: str


class Program(NamedTuple):
    """A decoded entry. The rows of constants come first, then those of special registers, then all others."""

    entry: Entry
    codes: array  # of 32-bit numbers: struct Code
    constants: bytes
    row_bytes: int
    special: dict[str, int]  # the rows of special registers


def row_bytes(width: int) -> int:
    """A predicate is a bit for each lane, which are kept as 32 bits."""
    return max(LANES * width // 8, 4)


class _Rows:
    """Gives rows to constants and registers as they are met."""

    def __init__(self, entry: Entry, addresses: dict[str, int]):
        self.entry, self.addresses = entry, addresses
        self.constants: dict[tuple[int, int], int] = {}
        self.registers: dict[str, int] = {}

    def __call__(self, token: str, width: int) -> tuple[bool, int] | None:
        """Whether a row is a constant's, and its number among these; None if a token is no operand of this width."""
        if token in SPECIAL:
            return (False, self._register(token)) if width == 32 else None
        if token == "_":  # what an instruction writes and nobody needs
            return False, self._register(f"%unread{width}")
        if found := _REGISTER.fullmatch(token):
            return (False, self._register(token)) if self.entry.widths.get(found[1]) == width else None
        value = self._value(token, width)
        return None if value is None else (True, self.constants.setdefault((width, value), len(self.constants)))

    def _register(self, token: str) -> int:
        return self.registers.setdefault(token, len(self.registers))

    def _value(self, token: str, width: int) -> int | None:
        if token in self.addresses:
            return self.addresses[token] if width >= 32 else None
        if token[:2] in ("0f", "0d"):
            fits = {"0f": (10, 32), "0d": (18, 64)}[token[:2]] == (len(token), width)
            return int(token[2:], 16) if fits else None
        if not re.fullmatch(r"-?\d+", token):
            return None
        value = int(token)
        return value % (1 << width) if -(1 << (width - 1)) <= value < 1 << width else None


def assemble(entry: Entry, known: dict[str, list[Known]], parameter: int, shared: int) -> Program:
    """Decode an entry whose arguments and shared memory begin at these addresses.

    Raises PtxError for an instruction that ``known`` doesn't have with such operands.
    """
    addresses = {name: parameter + offset for name, offset in entry.parameters.items()}
    rows = _Rows(entry, addresses | ({entry.shared: shared} if entry.shared else {}))
    for name in SPECIAL:
        rows(name, 32)
    decoded = [_decode(instruction, known, rows) for instruction in entry.instructions]
    constants, places = b"", []
    for width, value in rows.constants:
        places.append(len(constants))
        constants += (
            value.to_bytes(width // 8, "little") * LANES if width > 1 else (-value % 2**32).to_bytes(4, "little")
        )
        constants += bytes(-len(constants) % 64)
    offsets, end = {}, len(constants)
    widths = dict.fromkeys(SPECIAL, 32) | {f"%unread{width}": width for width in LETTERS.values()}
    for name, number in rows.registers.items():
        width = widths.get(name) or entry.widths[_REGISTER.fullmatch(name)[1]]
        offsets[number] = end
        end += row_bytes(width) + -row_bytes(width) % 64
    codes = array("i")
    for index, guard, negated, operands in decoded:
        codes.extend((index, -1 if guard is None else offsets[guard[1]], negated))
        found = [_offset(operand, places, offsets) for operand in operands]
        codes.extend(found + [0] * (OPERANDS - len(found)))
    return Program(entry, codes, constants, end, {name: offsets[rows.registers[name]] for name in SPECIAL})


def _offset(operand: int | tuple[bool, int], places: list[int], offsets: dict[int, int]) -> int:
    if isinstance(operand, int):
        return operand
    is_constant, number = operand
    return places[number] if is_constant else offsets[number]


def _decode(instruction: Instruction, known: dict[str, list[Known]], rows: _Rows) -> tuple:
    guard = rows(instruction.guard.lstrip("!"), 1) if instruction.guard else None
    for each in known.get(instruction.opcode, ()):
        operands = _match(instruction.tokens, each.pattern, rows)
        if operands is not None:
            return each.index, guard, int(instruction.guard.startswith("!")), operands
    taken = " or ".join(each.written for each in known.get(instruction.opcode, ()))
    about = f"takes {taken} here, and this has other operands" if taken else "isn't known to the executor"
    raise PtxError(f"line {instruction.line}: {instruction.opcode} {about}: {instruction.text}")


def _match(found: list[str], pattern: list[str], rows: _Rows) -> list | None:
    """The operands of tokens that are as a pattern says, or None."""
    if len(found) != len(pattern):
        return None
    operands: list = []
    for token, letter in zip(found, pattern, strict=True):
        if letter in LETTERS:
            operand = rows(token, LETTERS[letter])
        elif letter == "L":
            operand = rows.entry.labels.get(token)
        elif letter == "#":
            operand = int(token) if re.fullmatch(r"-?\d+", token) else None
        elif token == letter:
            continue
        else:
            return None
        if operand is None:
            return None
        operands.append(operand)
    return operands


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("operands", ctypes.c_char_p),
        ("run", ctypes.c_void_p),
        ("flow", ctypes.c_int32),
        ("mask", ctypes.c_int32),
    ]


@functools.cache
def table(library: ctypes.CDLL) -> dict[str, list[Known]]:
    """All that the machine knows, by opcode."""
    instruction = library.ptx_instruction
    instruction.restype = ctypes.POINTER(_Instruction)
    known: dict[str, list[Known]] = {}
    index = 0
    while found := instruction(index):
        name, operands = found.contents.name.decode(), found.contents.operands.decode()
        known.setdefault(name, []).append(Known(index, tokens(operands), operands))
        index += 1
    return known
