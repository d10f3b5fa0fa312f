"""The executor and what it catches. Its process is one that AddressSanitizer watches (`__main__`)."""

from pathlib import Path

import pytest

from .. import backend
from ..emulation.build import PTX, TRITON

HERE = Path(__file__).parent

#: The executor itself is tested beside the CUDA kernels.
OWN = sorted(path.name for path in HERE.glob("test_*.py") if not path.name.startswith("test_triton_"))
collect_ignore_glob = {PTX: ["test_triton_*.py"], TRITON: OWN}.get(backend.EMULATED or "", ["test_*.py"])
if not backend.ops():
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("ptx")
