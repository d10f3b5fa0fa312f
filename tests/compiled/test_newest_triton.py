"""The configurations that are nearest to spilling, compiled by the newest Triton beside the one that is installed."""

import os
from collections import defaultdict

import pytest
import triton

from benchmarks.compiled import triton_kernels
from benchmarks.compiled.triton_kernels import Row

from ..fake_gpu import SHARED
from .conftest import compile_rows
from .test_triton_kernels import lines

#: The folder of the newest Triton; ``make test-compiled`` sets it.
NEWEST = os.environ.get("EQUIFAST_NEWEST_TRITON", "")

#: Of each kernel: a minute of two cores for all of them.
NEAREST = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NEWEST, reason="EQUIFAST_NEWEST_TRITON names no folder: run make test-compiled"),
]


def nearest(rows: list[Row]) -> list[Row]:
    """Of each kernel the rows with the most registers."""
    found = defaultdict(list)
    for row in sorted(rows, key=lambda row: -row.registers):
        found[row.kernel].append(row)
    return [row for of_kernel in found.values() for row in of_kernel[:NEAREST]]


@pytest.fixture(scope="session")
def newest(rows, tmp_path_factory) -> list[Row]:
    folder = tmp_path_factory.mktemp("newest")
    triton_kernels.store(nearest(rows), folder / "nearest.json")
    path = os.pathsep.join(filter(None, (NEWEST, os.environ.get("PYTHONPATH"))))
    found, said = compile_rows(folder / "rows.json", "--again", folder / "nearest.json", PYTHONPATH=path)
    (version,) = [line.split(";")[0] for line in said.splitlines() if line.startswith("Triton ")]
    assert version != f"Triton {triton.__version__}", f"{NEWEST} has no other Triton"
    return found


def test_the_same_rows_are_compiled(rows, newest):
    assert {row[:4] for row in newest} == {row[:4] for row in nearest(rows)}
    assert {row.kernel for row in newest} == {row.kernel for row in rows}


def test_all_compile_and_none_spills(newest):
    wrong = [row for row in newest if row.error or row.spills or row.shared > SHARED[row.arch]]
    assert not wrong, lines(wrong)


def test_products_run_on_matrix_units(newest):
    wrong = [row for row in newest if triton_kernels.wants_matrix(row) and not row.instructions]
    assert not wrong, lines(wrong)
