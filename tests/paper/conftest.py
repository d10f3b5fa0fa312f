"""What all tests of the experiments need."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def paper(monkeypatch):
    """Imports a module of the experiments by name."""
    if not EXAMPLES.exists():
        pytest.skip("needs the source tree")
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(EXAMPLES)
    return lambda name: importlib.import_module(f"paper.{name}")
