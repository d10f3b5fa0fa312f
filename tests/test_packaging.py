"""Wheels as a user gets them: built from this tree, installed elsewhere, used from elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from equifast.backends import helper, native
from equifast.schemas import SCHEMAS

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
    return names | {"equifast/py.typed", "equifast/ops/schemas.txt", "equifast/_build.json"}


@needs_native
def test_native_wheel_contents(native_wheel):
    wheel, output, _ = native_wheel
    extra = contents(wheel) - source_files()
    assert source_files() <= contents(wheel)
    assert {name.split(".")[0] for name in extra} == {"equifast/_cpu", "equifast/_helper"} and len(extra) == 2
    assert wheel.name.split("-")[2:4] == ["py3", "none"] and "any" not in wheel.name
    assert "native build in build/" in output
    assert "equifast: _cuda not built: EQUIFAST_CUDA=0" in output


@needs_native
def test_native_wheel_works_elsewhere(native_wheel):
    code = f"""
from equifast import backends
from equifast.backends import helper, native
assert native.cpu_error() is None, native.cpu_error()
assert native.cuda_error() == "_cuda.so was not built: EQUIFAST_CUDA=0", native.cuda_error()
assert native.build_info()["isas"] == helper.isas_built()
assert backends.choose("cpu") == "cpu"
missing = [name for name in {list(SCHEMAS)!r} if not hasattr(torch.ops.equifast, name)]
assert not missing, missing
"""
    assert SCHEMAS
    for isa in helper.supported_isas():
        result = python(COMPUTE + code, native_wheel[2], EQUIFAST_CPU_CAPABILITY=isa)
        assert result.returncode == 0, result.output


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
    the linker may have shared among variants. Copies that GCC specialises for constants are private."""
    library = native_wheel[2] / "equifast/_cpu.so"
    leaks, seen, function = set(), 0, ""
    for line in run(["objdump", "--disassemble", "--no-show-raw-insn", library]).stdout.splitlines():
        if line.endswith(">:"):
            function = line.split("<")[1]
        elif "%ymm" in line or "%zmm" in line or "\tv" in line:
            seen += 1
            if not any(owner in function for owner in ("_GLOBAL__N_", "4avx2", "6avx512", ".constprop.")):
                leaks.add(function)
    assert seen and not leaks


def test_the_source_distribution_holds_what_a_build_needs_and_no_tests(tmp_path):
    """setuptools alone would add the test files whose names it knows, without those that they need."""
    made = run([sys.executable, "setup.py", "sdist", "--dist-dir", tmp_path], CXX="/nonexistent/c++")
    assert made.returncode == 0, made.output
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {member.name.partition("/")[2] for member in opened if member.isfile()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert sources | {"CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "setup.py", "toolchain.py"} <= names
    assert {name.split("/")[0] for name in names if "/" in name} == {"csrc", "equifast", "equifast.egg-info"}
    wheel = [*PIP, "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", tmp_path, archive]
    built = run(wheel, EQUIFAST_NATIVE="0")
    assert built.returncode == 0, built.output
    assert contents(next(tmp_path.glob("*.whl"))) == source_files()


def test_pure_wheel_computes(pure_wheel):
    wheel, output, target = pure_wheel
    assert wheel.name.endswith("-py3-none-any.whl")
    assert contents(wheel) == source_files()
    assert "equifast: pure-Python build without native libraries: EQUIFAST_NATIVE=0" in output
    result = python(COMPUTE, target)
    assert result.returncode == 0 and "RuntimeWarning" not in result.stderr, result.output  # it was asked for


def test_the_console_command_is_installed(pure_wheel):
    target = pure_wheel[2]
    told = run([sys.executable, target / "bin" / "equifast", "--version"], cwd=target.parent, PYTHONPATH=str(target))
    assert told.returncode == 0 and told.stdout.strip() in pure_wheel[0].name, told.output


def test_the_description_on_an_index_has_no_relative_links(pure_wheel):
    with zipfile.ZipFile(pure_wheel[0]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        text = archive.read(name).decode()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert all(link.startswith("https://") for link in links)
    source = re.search(r"^Project-URL: Source, (.+)$", text, re.MULTILINE)[1]
    here = [link.removeprefix(f"{source}/").split("/", 2) for link in links if link.startswith(source)]
    assert {(kind, name) for kind, _, name in here} >= {("raw", "docs/demo.png"), ("blob", "docs/usage.md")}
    assert all(branch == "main" and (ROOT / name).exists() for _, branch, name in here)


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


def test_without_a_compiler_the_wheel_is_pure_and_its_import_warns_once(tmp_path):
    (tmp_path / "empty").mkdir()
    wheel, output, target = build(tmp_path, PATH=str(tmp_path / "empty"))
    reason = "no C++ compiler (c++, g++ or clang++) on PATH"
    assert f"equifast: pure-Python build without native libraries: {reason}" in output
    assert json.loads((target / "equifast/_build.json").read_text()) == {"native": False, "reason": reason}
    used = python(COMPUTE, target)
    assert used.returncode == 0 and used.stderr.count("RuntimeWarning: equifast in") == 1, used.output
    assert f"_cpu.so was not built: {reason}" in used.stderr
    quiet = python(COMPUTE, target, EQUIFAST_BACKEND="reference")
    assert quiet.returncode == 0 and "RuntimeWarning" not in quiet.stderr, quiet.output


@pytest.mark.parametrize("command", ["dist_info", "bdist_wheel", "editable_wheel"])
def test_a_compiler_that_does_not_exist_is_an_error(command):
    result = run([sys.executable, "setup.py", command], CXX="/nonexistent/c++", EQUIFAST_CUDA="1")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "* CXX=/nonexistent/c++ is not a program: unset CXX, or set it to a C++20 compiler" in result.stderr


@pytest.mark.parametrize("variable", ["EQUIFAST_REQUIRE_NATIVE", "EQUIFAST_CUDA"])
def test_native_libraries_can_be_required(variable):
    result = run([sys.executable, "setup.py", "build"], EQUIFAST_NATIVE="0", **{variable: "1"})
    assert result.returncode == 1
    assert f"{variable}=1, but " in result.stderr and "can't be built: EQUIFAST_NATIVE=0" in result.stderr


@pytest.fixture
def small_tree(tmp_path):
    """The build of this tree, and next to nothing to be built."""
    files = ("setup.py", "toolchain.py", "CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md")
    for name in (*files, "equifast/__init__.py", "equifast/ops/schemas.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("common/empty.cpp", "cpu/library.cpp", "cpu/kernels/empty.cpp", "helper.cpp"):
        (tmp_path / "csrc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "csrc" / name).touch()
    return tmp_path


@needs_native
def test_a_build_replaces_what_is_there_and_tells_with_what(small_tree):
    package, flags = small_tree / "equifast", """-DNOTE='"a\\b"'"""
    for name in ("_cpu.so", "_cuda.so", "_build.json"):
        (package / name).write_text("old")
    loaded = (package / "_cpu.so").open()
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    built = run(command, cwd=small_tree, CXXFLAGS=flags, MAX_JOBS="1", EQUIFAST_CUDA="0")
    assert built.returncode == 0, built.output
    assert loaded.read() == "old"  # a process that has loaded the library keeps it
    assert {path.name.split(".")[0] for path in package.glob("_*.so")} == {"_cpu", "_helper"}
    facts = json.loads((package / "_build.json").read_text())
    assert facts["cxxflags"] == flags and facts["libraries"] == ["_cpu", "_helper"]
    assert facts["native"] is True and facts["cuda"] == {"reason": "EQUIFAST_CUDA=0"}
    assert facts.keys() == native.build_info().keys()
    assert facts["torch"] == torch.__version__ and f"torch {torch.__version__} in " in built.output
    assert "MAX_JOBS 1" in built.output


@needs_native
def test_a_compile_error_is_no_fallback(small_tree):
    tmp_path = small_tree
    (tmp_path / "csrc/cpu/library.cpp").write_text("#error on purpose\n")
    result = run([sys.executable, "setup.py", "build"], cwd=tmp_path)
    assert result.returncode != 0
    assert "error on purpose" in result.output and "the native build failed" in result.output
    assert "pure-Python" not in result.output


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
    for name, text in {"kernels/kernel.cu": KERNEL, "ops/op.cpp": OP}.items():
        (small_tree / "csrc/cuda" / name).parent.mkdir(parents=True)
        (small_tree / "csrc/cuda" / name).write_text(text)
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
