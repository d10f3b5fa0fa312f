"""Looks at the file of a native library before it is loaded, since a library that is loaded stays.

A file that is cut short would end the process, and the ops of another version of this package could not be replaced.
"""

from __future__ import annotations

import struct
from pathlib import Path

from ..schemas import SCHEMAS

#: 64-bit ELF, little-endian. In the header: where the program headers are, the size of one, and their number.
_ELF, _HEADER, _PLACE, _COUNTS = b"\x7fELF\x02\x01", 64, struct.Struct("<Q"), struct.Struct("<HH")
#: In a program header: the place of a segment in the file, its addresses, and its size in the file.
_SEGMENT = struct.Struct("<IIQQQQ")


def problem(library: Path) -> str | None:
    """Why a library of ops must not be loaded, or None."""
    if wrong := cut_short(library):
        return wrong
    data = library.read_bytes()
    # C++ has each line of schemas.txt as a text, and defines the ops by these.
    other = [name for name, schema in SCHEMAS.items() if schema.encode() not in data]
    if len(other) == len(SCHEMAS):
        return "its file has none of the ops"
    if other:
        some = ", ".join(other[:3]) + (", …" if len(other) > 3 else "")
        return f"it was built from other sources than these: it lacks {some} or has other arguments; build it anew"
    return None


def cut_short(library: Path) -> str | None:
    """What tells that the end of a library is missing, or None."""
    data = library.read_bytes()
    if (whole := _least_size(data)) > len(data):
        return f"its file has {len(data)} bytes and should have {whole} at least, so it is cut short"
    return None


def _least_size(data: bytes) -> int:
    """The end of the last segment that an ELF file says it has; 0 for any other format."""
    if not data.startswith(_ELF) or len(data) < _HEADER:
        return 0
    (start,), (size, count) = _PLACE.unpack_from(data, 32), _COUNTS.unpack_from(data, 54)
    ends = [start + size * count]
    if ends[0] <= len(data) and size >= _SEGMENT.size:
        for k in range(count):
            _, _, place, _, _, in_file = _SEGMENT.unpack_from(data, start + size * k)
            ends.append(place + in_file)
    return max(ends)
