"""The torch ops of this package. `ops/schemas.txt` is the one list of them, for C++ and Python alike."""

from __future__ import annotations

from importlib import resources


def _read() -> dict[str, str]:
    lines = resources.files(__package__).joinpath("ops/schemas.txt").read_text().splitlines()
    return {line.partition("(")[0]: line for line in lines if line and not line.startswith("#")}


#: The schema of each op, by the op's name.
SCHEMAS = _read()
