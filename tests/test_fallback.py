"""A library that is damaged, or of other sources: one warning that names the cause, and right results."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import equifast
from equifast.backends import library_file, native
from equifast.schemas import SCHEMAS

ROOT = Path(__file__).resolve().parents[1]
CPU = native.PACKAGE / "_cpu.so"

pytestmark = [
    pytest.mark.skipif(not native.build_info().get("native"), reason="this is a pure-Python build"),
    pytest.mark.skipif(sys.platform != "linux", reason="the damages are those of ELF files"),
]

#: What is done to the bytes of `_cpu.so`, and what the warning says.
DAMAGES = {
    "garbage": (lambda data: b"not a shared library", "can't be loaded: its file has none of the ops"),
    "empty": (lambda data: b"", "can't be loaded: its file has none of the ops"),
    **{
        f"cut to {percent} %": (lambda data, p=percent: data[: len(data) * p // 100], "cut short")
        for percent in (1, 50, 90)
    },
    "another op": (
        lambda data: data.replace(b"orbit_inner(Tensor u", b"orbit_outer(Tensor u"),
        "built from other sources than these: it lacks orbit_inner or has other arguments",
    ),
    "another torch": (
        lambda data: data.replace(b"\0torch_parallel_for\0", b"\0torch_parallel_old\0"),
        "can't be loaded: .*undefined symbol: torch_parallel_old",
    ),
    "whole": (lambda data: data, None),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What each copy of the package with a damaged library said."""
    data, folders = CPU.read_bytes(), {}
    for name, (damage, _) in DAMAGES.items():
        folders[name] = copy(tmp_path_factory)
        (folders[name] / "equifast/_cpu.so").write_bytes(damage(data))
    folders["directory"] = copy(tmp_path_factory)
    (folders["directory"] / "equifast/_cpu.so").mkdir()
    folders["CUDA"] = copy(tmp_path_factory)
    (folders["CUDA"] / "equifast/_cpu.so").write_bytes(data)
    (folders["CUDA"] / "equifast/_cuda.so").write_bytes(b"not a shared library")
    folders["facts"] = copy(tmp_path_factory)
    (folders["facts"] / "equifast/_cpu.so").write_bytes(data)
    (folders["facts"] / "equifast/_build.json").write_text("[1, 2")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("EQUIFAST_", "PYTHONPATH"))}
    command = [sys.executable, "-m", "tests.damages", *map(str, folders.values())]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(folders, map(json.loads, done.stdout.splitlines()), strict=True))


def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    leave_out = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(Path(equifast.__file__).parent, folder / "equifast", ignore=leave_out)
    return folder


@pytest.mark.parametrize("name", [*DAMAGES, "directory"])
def test_a_damaged_library_is_replaced_by_plain_torch_with_one_warning(reports, name):
    message = DAMAGES[name][1] if name in DAMAGES else "can't be loaded: .*[Ii]s a directory"
    assert reports[name] == {
        "warnings": reports[name].get("warnings"),
        "backend": "reference" if message else "cpu",
        "right": True,
    }
    said = reports[name]["warnings"]
    assert len(said) == bool(message)
    if message:
        assert re.search(rf"runs CPU tensors in plain PyTorch .*: _cpu\.so .*{message}", said[0])


def test_a_damaged_cuda_library_gives_a_warning_of_its_own(reports):
    (said,) = reports["CUDA"]["warnings"]
    assert re.search(r"runs CUDA tensors without its kernels in CUDA C\+\+: _cuda\.so .*can't be", said)
    assert reports["CUDA"]["backend"] == "cpu" and reports["CUDA"]["right"]


def test_facts_of_the_build_that_are_damaged_are_not_missed(reports):
    assert reports["facts"] == {"warnings": [], "backend": "cpu", "right": True}


def test_every_op_has_its_schema_in_the_library(tmp_path):
    data = CPU.read_bytes()
    assert library_file.problem(CPU) is None
    for name, schema in SCHEMAS.items():
        other = tmp_path / "other.so"
        other.write_bytes(data.replace(schema.encode(), schema.replace("Tensor", "Tensr_", 1).encode()))
        assert f"lacks {name} or has other arguments" in library_file.problem(other)
