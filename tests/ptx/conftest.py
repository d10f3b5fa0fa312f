"""The executor and what it catches. Its process is one that AddressSanitizer watches (`__main__`)."""

from pathlib import Path

import pytest

from .. import backend
from ..emulation.build import PTX

HERE = Path(__file__).parent

collect_ignore_glob = [] if backend.EMULATED == PTX and backend.ops() else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("ptx")
