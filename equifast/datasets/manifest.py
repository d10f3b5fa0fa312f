"""What a run wrote: one line of JSON for each image, in files that a kill leaves whole or easy to repair.

``manifest.json`` has the settings of the run. ``manifest-<rank>.jsonl`` has the images that are files; each process
appends to its own. ``<archive>.jsonl`` has those of an archive, and is written after it, at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def write(path: Path, content: bytes) -> None:
    """Write a file beside ``path`` and move it there, which is one step for the file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_of(path)
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def unfinished_of(path: Path) -> Path:
    """Where a file is written before it is moved to ``path``: always the same, so that nothing is left in the end."""
    return path.with_name(f".{path.name}.unfinished")


def text(lines: Iterable[Line]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def keep_settings(folder: Path, settings: Line) -> None:
    """Write down the settings of a run.

    Raises:
        ValueError: if the folder has the outputs of a run with others.
    """
    path = folder / "manifest.json"
    if path.exists():
        before = json.loads(path.read_bytes())
        other = [name for name in before.keys() | settings.keys() if before.get(name) != settings.get(name)]
        if other:
            found = ", ".join(f"{name} {before.get(name)}, now {settings.get(name)}" for name in sorted(other))
            raise ValueError(f"OUT: {folder} was begun with {found}")
    write(path, json.dumps(settings, indent=1, ensure_ascii=False).encode() + b"\n")


def done(folder: Path) -> set[str]:
    """The names of all images that are files and have a line."""
    return {line["file"] for path in _parts(folder) for line in _whole(path.read_bytes())[0]}


def archive_lines(output: Path) -> Path:
    """Where the lines of an archive are; the archive is done if there is such a file."""
    return output.with_name(f"{output.name}.jsonl")


class Journal:
    """The lines of one process, a file that it appends to, and that no other process may have open.

    Raises:
        ValueError: if another process has it open.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"manifest-{rank}.jsonl"
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115  # closed by `close`
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise ValueError(f"OUT: another process writes to {self.path}") from None
        # The last line may be cut off where a process was killed.
        self.file.truncate(_whole(self.path.read_bytes())[1])
        self.lock = threading.Lock()

    def append(self, line: Line) -> None:
        """Write a line at once, in a single call of the system. Threads may do this at the same time."""
        with self.lock:
            self.file.write(text([line]))

    def close(self) -> None:
        self.file.close()


def repair(folder: Path, size: int) -> None:
    """Cut off unfinished lines in the files of processes that an earlier run had and this one, of ``size``, hasn't."""
    for path in _parts(folder):
        rank = int(path.stem.removeprefix("manifest-"))
        if rank >= size:
            Journal(folder, rank).close()


def _parts(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("manifest-*.jsonl")) if path.stem.removeprefix("manifest-").isdigit()]


def _whole(content: bytes) -> tuple[list[Line], int]:
    """The lines that are whole, and their length in bytes."""
    lines, size = [], 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        lines.append(json.loads(line))
        size += len(line)
    return lines, size
