"""Wheels as a user gets them: built from this tree, installed elsewhere, used from elsewhere."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools

from equifast import native

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
COMPUTE = """
import torch, equifast
x = torch.rand(2, 3, 8, 8)
expected = torch.cat([torch.rot90(x, -j, (2, 3)) for j in range(4)])
assert torch.equal(equifast.orbit(x, "C4"), expected)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree"),
]
needs_native = pytest.mark.skipif(not native.build_info().get("native"), reason="this is a pure-Python build")


def run(command, cwd=ROOT, **variables):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("EQUIFAST_", "PYTHONPATH", "TORCH_CUDA"))}
    result = subprocess.run(command, cwd=cwd, env=env | variables, capture_output=True, text=True)
    result.output = result.stdout + result.stderr
    return result


def build(destination, **variables):
    """The wheel of this tree, what the build printed, and the folder it was installed into."""
    wheel = [
        *PIP,
        "wheel",
        "--verbose",
        "--no-build-isolation",
        "--no-deps",
        "--wheel-dir",
        destination,
        ROOT,
    ]
    built = run(wheel, **variables)
    assert built.returncode == 0, built.output
    (path,) = destination.glob("*.whl")
    target = destination / "site"
    installed = run([*PIP, "install", "--quiet", "--no-deps", "--target", target, path])
    assert installed.returncode == 0, installed.output
    return path, built.output, target


def python(code, target, **variables):
    """Runs `code` far from the source tree, with the installed copy first on the path."""
    check = f"import equifast; assert equifast.__file__.startswith({str(target)!r}), equifast.__file__\n"
    return run([sys.executable, "-c", check + code], cwd=target.parent, PYTHONPATH=str(target), **variables)


@pytest.fixture(scope="module")
def native_wheel(tmp_path_factory):
    # _cuda would take minutes; a small one is built below.
    return build(tmp_path_factory.mktemp("native"), EQUIFAST_REQUIRE_NATIVE="1", EQUIFAST_CUDA="0")


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory):
    return build(tmp_path_factory.mktemp("pure"), EQUIFAST_NATIVE="0")


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def source_files():
    names = {str(path.relative_to(ROOT)) for path in (ROOT / "equifast").rglob("*.py")}
    return names | {"equifast/py.typed", "equifast/ops/schemas.txt", "equifast/selection.json", "equifast/_build.json"}


@needs_native
def test_native_wheel_contents(native_wheel):
    wheel, output, _ = native_wheel
    extra = contents(wheel) - source_files()
    assert source_files() <= contents(wheel)
    assert {name.split(".")[0] for name in extra} == {"equifast/_cpu", "equifast/_helper"} and len(extra) == 2
    assert "native build in build/" in output
    assert "equifast: _cuda not built: EQUIFAST_CUDA=0" in output


@needs_native
def test_native_wheel_works_elsewhere(native_wheel):
    _, _, target = native_wheel
    code = """
from equifast import backends, native
assert native.cpu_error() is None, native.cpu_error()
assert native.cuda_error() == "_cuda.so was not built: EQUIFAST_CUDA=0", native.cuda_error()
assert native.build_info()["isas"] == native.helper().isas_built()
assert backends.choose("cpu") == "cpu"
"""
    for isa in native.helper().supported_isas():
        result = python(COMPUTE + code, target, EQUIFAST_CPU_CAPABILITY=isa)
        assert result.returncode == 0, result.output


@needs_native
def test_every_schema_is_registered(native_wheel):
    _, _, target = native_wheel
    lines = (ROOT / "equifast/ops/schemas.txt").read_text().splitlines()
    names = [line.split("(")[0].strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    code = f"""
import torch
from equifast import native
assert native.load_cpu()
missing = [name for name in {names!r} if not hasattr(torch.ops.equifast, name)]
assert not missing, missing
"""
    result = python(code, target)
    assert names and result.returncode == 0, result.output


@needs_native
@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_cpu_library_is_portable(native_wheel):
    library = native_wheel[2] / "equifast/_cpu.so"
    dynamic = run(["readelf", "--dynamic", "--wide", library]).stdout
    symbols = run(["readelf", "--dyn-syms", "--wide", library]).stdout
    assert "[libtorch_cpu.so]" in dynamic
    assert not any(word in dynamic for word in ("RPATH", "RUNPATH", "libpython", "libtorch_python"))
    assert not [line for line in symbols.splitlines() if line.split()[-1:] and line.split()[-1].startswith("Py")]
    for place in (str(ROOT), sys.prefix):
        assert place.encode() not in library.read_bytes()


@needs_native
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.skipif("avx2" not in native.build_info().get("isas", ()), reason="one variant only")
def test_shared_code_runs_on_every_cpu(native_wheel):
    """AVX instructions only in functions of an AVX variant or private to one source file, never in one that
    the linker may have shared among variants."""
    library = native_wheel[2] / "equifast/_cpu.so"
    leaks, seen, function = set(), 0, ""
    for line in run(["objdump", "--disassemble", "--no-show-raw-insn", library]).stdout.splitlines():
        if line.endswith(">:"):
            function = line.split("<")[1]
        elif "%ymm" in line or "%zmm" in line or "\tv" in line:
            seen += 1
            if not any(owner in function for owner in ("_GLOBAL__N_", "4avx2", "6avx512")):
                leaks.add(function)
    assert seen and not leaks


def test_pure_wheel_computes(pure_wheel):
    wheel, output, target = pure_wheel
    assert wheel.name.endswith("-py3-none-any.whl")
    assert contents(wheel) == source_files()
    assert "equifast: pure-Python build without native libraries: EQUIFAST_NATIVE=0" in output
    result = python(COMPUTE, target)
    assert result.returncode == 0, result.output


def test_forced_backend_without_its_library_raises_at_the_call(pure_wheel):
    code = """
import torch, equifast  # neither may raise
try:
    equifast.orbit(torch.rand(2, 3, 8, 8), "C4")
except RuntimeError as error:
    print(error)
"""
    result = python(code, pure_wheel[2], EQUIFAST_BACKEND="cpu")
    assert result.returncode == 0, result.output
    assert "EQUIFAST_BACKEND=cpu can't run cpu tensors: _cpu.so was not built: EQUIFAST_NATIVE=0" in result.stdout


def test_missing_compiler_gives_a_pure_wheel(tmp_path):
    wheel, output, target = build(tmp_path, CXX="/nonexistent/c++")
    reason = "no C++ compiler (/nonexistent/c++ not found)"
    assert f"equifast: pure-Python build without native libraries: {reason}" in output
    assert json.loads((target / "equifast/_build.json").read_text()) == {"native": False, "reason": reason}
    assert python(COMPUTE, target).returncode == 0


def test_native_can_be_required():
    result = run([sys.executable, "setup.py", "build"], CXX="/nonexistent/c++", EQUIFAST_REQUIRE_NATIVE="1")
    assert result.returncode != 0
    assert "EQUIFAST_REQUIRE_NATIVE=1, but the native libraries can't be built: no C++ compiler" in result.stderr


@pytest.fixture
def small_tree(tmp_path):
    """The build of this tree, and next to nothing to be built."""
    for name in ("setup.py", "CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in (
        "equifast/__init__.py",
        "equifast/ops/schemas.txt",
        "csrc/cpu_isa.h",
        "csrc/geometry.h",
        "csrc/helper.cpp",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("csrc/ops.cpp", "csrc/cpu/empty.cpp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


@needs_native
def test_a_compile_error_is_no_fallback(small_tree):
    tmp_path = small_tree
    (tmp_path / "csrc/ops.cpp").write_text("#error on purpose\n")
    result = run([sys.executable, "setup.py", "build"], cwd=tmp_path)
    assert result.returncode != 0
    assert "error on purpose" in result.output and "the native build failed" in result.output
    assert "pure-Python" not in result.output


def load_setup(monkeypatch):
    """setup.py as a module, with nothing set up."""
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    spec = importlib.util.spec_from_file_location("equifast_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toolkit(monkeypatch, tmp_path):
    """setup.py as with a torch for CUDA 13.0, and with an nvcc that has the version given and compiles anything."""
    for name in ("EQUIFAST_CUDA", "EQUIFAST_NATIVE", "EQUIFAST_REQUIRE_NATIVE", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EQUIFAST_NATIVE", "0")  # no probing of compilers while it is loaded
    module = load_setup(monkeypatch)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(module, "cuda_of_torch", lambda: "13.0")
    monkeypatch.setattr(module, "compiler", lambda: ["c++"])

    def install(version, listed=("75", "80", "86", "90", "100", "103", "120", "121")):
        told = f"release {version}, V{version}.1 " + " ".join(f"compute_{code}" for code in listed)
        (tmp_path / "bin/nvcc").write_text(f"#!/bin/sh\necho '{told}'\n")
        (tmp_path / "bin/nvcc").chmod(0o755)

    install("13.0")
    module.install = install
    return module


@pytest.mark.skipif(not list(ROOT.glob("csrc/cuda/*.cu")), reason="no CUDA sources here")
@pytest.mark.skipif(sys.platform != "linux", reason="CUDA is built on Linux only")
def test_why_cuda_is_not_built(toolkit, monkeypatch):
    import torch

    assert toolkit.cuda_blocker() is None
    for value, reason in (("0", "EQUIFAST_CUDA=0"), ("yes", "EQUIFAST_CUDA: expected 0, 1 or auto, got 'yes'")):
        monkeypatch.setenv("EQUIFAST_CUDA", value)
        assert toolkit.cuda_blocker() == reason
    monkeypatch.delenv("EQUIFAST_CUDA")
    toolkit.install("11.8")
    assert toolkit.cuda_blocker() == "nvcc 11.8 is older than 12.0, the first with C++20"
    toolkit.install("12.9")
    version = torch.__version__
    assert toolkit.cuda_blocker() == f"nvcc 12.9 isn't of the CUDA 13.0 that torch {version} was built with"
    monkeypatch.setattr(toolkit, "cuda_of_torch", lambda: None)
    assert toolkit.cuda_blocker() == f"torch {version} has no CUDA"
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


def test_the_cuda_of_torch_is_read_without_importing_it(toolkit, monkeypatch, tmp_path):
    module = load_setup(monkeypatch)
    monkeypatch.setattr(module, "torch_dir", lambda: tmp_path)
    lines = {"cuda: Optional[str] = '12.8'": "12.8", "cuda = '13.0'": "13.0", "cuda: Optional[str] = None": None}
    for line, version in lines.items():
        (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\nhip: Optional[str] = None\n")
        assert module.cuda_of_torch() == version


def test_cuda_can_be_required():
    result = run([sys.executable, "setup.py", "build"], CXX="/nonexistent/c++", EQUIFAST_CUDA="1")
    assert result.returncode != 0
    assert "EQUIFAST_CUDA=1, but _cuda can't be built: no C++ compiler (/nonexistent/c++ not found)" in result.stderr


KERNEL = """
__global__ void kernel(float* out, float a, float b) { *out = a * b + *out; }
void start(float* out) { kernel<<<1, 1>>>(out, 2.0f, 3.0f); }
"""
OP = """
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include "schemas.h"
void start(float*);
int64_t probe(int64_t device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  start(nullptr);
  return sizeof kSchemas;
}
STABLE_TORCH_LIBRARY_FRAGMENT(equifast_probe, m) { m.def("probe(int device) -> int"); }
STABLE_TORCH_LIBRARY_IMPL(equifast_probe, CUDA, m) { m.impl("probe", TORCH_BOX(&probe)); }
"""


@needs_native
@pytest.mark.skipif(shutil.which("nvcc") is None or shutil.which("readelf") is None, reason="needs nvcc and readelf")
def test_the_cuda_library_is_portable(small_tree):
    """Built for a torch with or without CUDA, it needs the names of torch's libraries, and no CUDA runtime."""
    (small_tree / "csrc/cuda").mkdir()
    (small_tree / "csrc/cuda/kernel.cu").write_text(KERNEL)
    (small_tree / "csrc/cuda/op.cpp").write_text(OP)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    built = run(command, cwd=small_tree, EQUIFAST_CUDA="1", TORCH_CUDA_ARCH_LIST="8.0 9.0+PTX")
    assert built.returncode == 0, built.output
    assert "nvcc for 80-real 90\n" in built.output
    facts = json.loads((small_tree / "equifast/_build.json").read_text())
    assert facts["libraries"] == ["_cpu", "_helper", "_cuda"]
    assert facts["cuda"]["archs"] == ["80-real", "90"] and facts["cuda"]["flags"] == "-O3 -fmad=false"
    library = small_tree / "equifast/_cuda.so"
    dynamic = run(["readelf", "--dynamic", "--wide", library]).stdout
    assert "[libtorch_cpu.so]" in dynamic and "[libtorch_cuda.so]" in dynamic
    assert not any(word in dynamic for word in ("libcudart", "RPATH", "RUNPATH", "libpython"))
    for place in (str(small_tree), sys.prefix):
        assert place.encode() not in library.read_bytes()
    without = run(command, cwd=small_tree, EQUIFAST_CUDA="0")
    assert without.returncode == 0 and not library.exists(), without.output
    facts = json.loads((small_tree / "equifast/_build.json").read_text())
    assert facts["cuda"] == {"reason": "EQUIFAST_CUDA=0"} and "_cuda" not in facts["libraries"]
