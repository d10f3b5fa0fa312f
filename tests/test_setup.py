"""What a build decides beforehand: whether it can, with what, and what it says where it can't."""

import importlib.util
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")


def load(name):
    """A new copy of a module of the build."""
    spec = importlib.util.spec_from_file_location(f"equifast_{name}", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def machine(monkeypatch):
    """toolchain.py, with none of the variables that it reads."""
    for name in ("CUDAHOSTCXX", "CXX", "EQUIFAST_CUDA", "EQUIFAST_NATIVE", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    return load("toolchain")


def program(path, says):
    """A program that prints one line and succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_everything_that_is_missing_is_named_at_once(machine, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    monkeypatch.setattr(machine, "torch", lambda: None)
    monkeypatch.setattr(machine, "tools", lambda name: [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    packages = "'torch>=2.10' 'setuptools>=77' 'cmake>=3.20' ninja"  # as in pyproject.toml
    assert machine.problem().splitlines() == [
        "the native libraries can't be built:",
        "  * torch is not installed",
        "  * ninja is not installed",
        "  * cmake is not installed",
        "  * CXX=/nonexistent/c++ is not a program: unset CXX, or set it to a C++20 compiler",
        f"To mend this: pip install {packages} && pip install --no-build-isolation .",
        "To install without them: EQUIFAST_NATIVE=0 pip install . (the same results, several times slower)",
    ]


def test_only_what_is_wrong_is_named(machine, monkeypatch):
    monkeypatch.setattr(machine, "faults", dict)
    assert machine.problem() is None
    monkeypatch.setattr(machine, "faults", lambda: {"ninja": "ninja is not installed"})
    assert "pip install ninja && " in machine.problem()
    monkeypatch.setattr(machine, "faults", lambda: {"compiler": "it can't"})
    assert "  * it can't" in machine.problem() and "To mend this" not in machine.problem()


def test_a_package_that_is_too_old_is_named_with_its_version(machine, monkeypatch):
    monkeypatch.setattr(machine, "torch", lambda: machine.Torch(ROOT, "2.9.1+cpu", None))
    assert machine.faults()["torch"] == "torch 2.9.1+cpu is too old"


def test_an_old_setuptools_is_named_in_a_pure_build_too(monkeypatch):
    monkeypatch.setenv("EQUIFAST_NATIVE", "0")
    monkeypatch.setattr(metadata, "version", lambda name: "65.5.0")
    with pytest.raises(SystemExit, match="equifast: setuptools 65.5.0 is too old: pip install 'setuptools>=77'"):
        load("setup")


def test_an_old_cmake_on_the_path_hides_no_newer_one(machine, monkeypatch, tmp_path):
    old = program(tmp_path / "old/cmake", "cmake version 3.18.4")
    monkeypatch.setattr(machine, "tools", lambda name: [str(old)])
    assert machine.faults()["cmake"] == f"cmake is too old: {old} is version 3.18.4"
    new = program(tmp_path / "new/cmake", "cmake version 4.4.5")
    monkeypatch.setattr(machine, "tools", lambda name: [str(old), str(new)])
    assert machine.cmake() == str(new) and "cmake" not in machine.faults()


def test_a_compiler_without_the_language_is_an_error(machine, monkeypatch, tmp_path):
    old = program(tmp_path / "g++-8", "unrecognized option")
    old.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("CXX", f"{old} -O1")
    expected = f"{old} -O1 can't build a C++20 program: set CXX to a newer compiler, such as g++-12"
    assert machine.faults()["compiler"] == expected and machine.pure_reason() is None


def test_only_a_request_or_the_lack_of_any_compiler_make_a_pure_build(machine, monkeypatch, tmp_path):
    assert machine.pure_reason() is None or shutil.which("c++") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.pure_reason() == "no C++ compiler (c++, g++ or clang++) on PATH"
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    assert machine.pure_reason() is None
    monkeypatch.setenv("EQUIFAST_NATIVE", "0")
    assert machine.pure_reason() == "EQUIFAST_NATIVE=0"


def test_build_isolation_does_not_hide_the_installed_torch(machine, monkeypatch):
    hidden = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else hidden(name))
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    found = machine.torch()
    assert (found.folder, found.version) == (Path(torch.__file__).parent, torch.__version__)
    assert found.cuda == torch.version.cuda


def test_a_read_only_checkout_gets_advice(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SystemExit, match="is read-only, and a build writes to it: copy it to a folder of yours"):
        load("setup")


@pytest.fixture
def toolkit(machine, monkeypatch, tmp_path):
    """setup.py as with a torch for CUDA 13.0, and with an nvcc that has the version given and compiles anything."""
    module = machine
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(module, "torch", lambda: module.Torch(tmp_path, "2.13.0+cu130", "13.0"))
    monkeypatch.setattr(module, "compiler", lambda: ["c++"])

    def install(version, listed=("75", "80", "86", "90", "100", "103", "120", "121")):
        told = " ".join(f"compute_{code}" for code in listed)
        program(tmp_path / "bin/nvcc", f"release {version}, V{version}.1 {told}")

    install("13.0")
    module.install = install
    return module


@pytest.mark.skipif(not list(ROOT.glob("csrc/cuda/kernels/*.cu")), reason="no CUDA sources here")
@pytest.mark.skipif(sys.platform != "linux", reason="CUDA is built on Linux only")
def test_why_cuda_is_not_built(toolkit, monkeypatch, tmp_path):
    assert toolkit.cuda_blocker() is None
    for value, reason in (("0", "EQUIFAST_CUDA=0"), ("yes", "EQUIFAST_CUDA: expected 0, 1 or auto, got 'yes'")):
        monkeypatch.setenv("EQUIFAST_CUDA", value)
        assert toolkit.cuda_blocker() == reason
    monkeypatch.delenv("EQUIFAST_CUDA")
    toolkit.install("11.8")
    assert toolkit.cuda_blocker() == "nvcc 11.8 is older than 12.0, the first with C++20"
    toolkit.install("12.9")
    assert toolkit.cuda_blocker() == "nvcc 12.9 isn't of the CUDA 13.0 that torch 2.13.0+cu130 was built with"
    monkeypatch.setattr(toolkit, "torch", lambda: toolkit.Torch(tmp_path, "2.13.0+cpu", None))
    assert toolkit.cuda_blocker() == "torch 2.13.0+cpu has no CUDA"
    monkeypatch.setenv("EQUIFAST_CUDA", "1")
    assert toolkit.cuda_blocker() is None
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5 Turing")
    expected = "TORCH_CUDA_ARCH_LIST: expected names such as 8.0, 9.0a or 12.0+PTX, got 'Turing'"
    assert toolkit.cuda_blocker() == expected
    monkeypatch.setattr(toolkit, "nvcc", lambda: None)
    assert toolkit.cuda_blocker() == "no nvcc"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("8.0;9.0a;12.0+PTX", ["80-real", "90a-real", "120"]),
        ("8.6 9.0+PTX", ["86-real", "90"]),
        (" 7.5, 8.0 ; 8.0", ["80-real"]),
        ("10.0f", ["100f-real"]),
        ("", ["80", "90-real", "100-real", "120"]),
    ],
)
def test_architectures_are_spelled_as_torch_does(toolkit, monkeypatch, given, expected):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    assert toolkit.archs() == expected


def test_an_old_nvcc_builds_for_what_it_knows(toolkit, monkeypatch):
    toolkit.install("12.2", ("80", "86", "89", "90"))
    assert toolkit.archs() == ["80", "90"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.0 7.5")
    with pytest.raises(ValueError, match="expected 8.0 or newer among them, got '7.0 7.5'"):
        toolkit.archs()


def test_the_versions_of_torch_are_read_without_importing_it(machine, monkeypatch, tmp_path):
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    lines = {"cuda: Optional[str] = '12.8'": "12.8", "cuda = '13.0'": "13.0", "cuda: Optional[str] = None": None}
    for line, version in lines.items():
        (tmp_path / "version.py").write_text(f"__all__ = ['cuda']\n__version__ = '2.15.0+cu132'\n{line}\nhip = None\n")
        machine.torch.cache_clear()
        assert machine.torch() == (tmp_path, "2.15.0+cu132", version)
