"""Files that are either whole or not there: results as JSON, checkpoints by torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).resolve().parent


class Store:
    """The results and checkpoints of one form of the experiments.

    Args:
        name: "full" or "quick".
        folder: where `results` and the git-ignored `checkpoints` are.
    """

    def __init__(self, name: str, folder: Path = FOLDER) -> None:
        self.results = folder / "results" / name
        self.checkpoints = folder / "checkpoints" / name
        self.results.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def has(self, name: str) -> bool:
        return self._result(name).exists()

    def read(self, name: str) -> dict[str, Any]:
        return json.loads(self._result(name).read_text())

    def all(self) -> list[dict[str, Any]]:
        """Every stored result, by the name of its file."""
        return [json.loads(path.read_text()) for path in sorted(self.results.glob("*.json"))]

    def write(self, name: str, result: dict[str, Any]) -> None:
        text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
        _replace(self._result(name), lambda path: path.write_text(text))

    def load(self, name: str) -> dict[str, Any] | None:
        """A checkpoint, or None if there is none."""
        path = self._checkpoint(name)
        return torch.load(path, weights_only=True) if path.exists() else None

    def save(self, name: str, state: dict[str, Any]) -> None:
        _replace(self._checkpoint(name), lambda path: torch.save(state, path))

    def _result(self, name: str) -> Path:
        return self.results / f"{name}.json"

    def _checkpoint(self, name: str) -> Path:
        return self.checkpoints / f"{name}.pt"


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside `path` and move it there, which is one step for the file system."""
    fresh = path.with_name(f"{path.name}.unfinished")
    write(fresh)
    os.replace(fresh, path)
