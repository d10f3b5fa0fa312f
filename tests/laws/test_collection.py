"""No op of a backend without laws that run there. That each op has a file of them, tests/test_house.py holds."""

import subprocess
import sys
from pathlib import Path

import pytest

from .. import backend
from ..ops.conftest import untested

ROOT = Path(__file__).parents[2]


def test_without_laws_every_op_is_missed():
    assert untested([]) == list(backend.ops())


def test_a_backend_that_collects_no_law_of_an_op_is_an_error():
    command = [sys.executable, "-m", "pytest", "tests/ops", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--ignore=tests/ops/test_angle_inner.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "has these ops, but runs no test of them: angle_inner" in done.stdout + done.stderr


@pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="installed without its Makefile")
def test_make_runs_the_laws_on_every_backend():
    """But on a GPU, for which there is ``make gpu``."""
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "$(PY) -m pytest" in line]
    whole = [line for line in lines if "tests.ptx.once" not in line]  # which takes one case of each law
    of_laws = [line for line in whole if "tests/ops" in line or "--ignore=tests/peers" in line]
    for variables in (
        "TRITON_INTERPRET=1 EQUIFAST_BACKEND=triton",
        "EQUIFAST_EMULATION=plain EQUIFAST_BACKEND=reference",
    ):
        assert sum(f"\t{variables} $(PY)" in line for line in of_laws) == 1
    assert any("\tEQUIFAST_BACKEND=reference $(PY)" in line for line in of_laws) and len(of_laws) == 4
