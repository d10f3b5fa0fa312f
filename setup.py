"""Builds the native libraries with CMake and ninja; all other metadata is in pyproject.toml.

Environment: EQUIFAST_NATIVE=0 leaves the native libraries out, EQUIFAST_REQUIRE_NATIVE=1 makes their absence
an error, CXX and CXXFLAGS choose the compiler and its flags, MAX_JOBS bounds the parallel compile jobs.

The wheel carries an ordinary cpXY tag. `_cpu.so` alone would serve every Python (it has no Python symbols)
and every torch >= 2.10 (LibTorch stable ABI), but the pybind11 module `_helper` belongs to one Python.
"""

import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
HELPER = "_helper" + sysconfig.get_config_var("EXT_SUFFIX")


def tool(name):
    """Path of a build tool: PATH first (build isolation prepends its own), then beside this interpreter."""
    return shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))


def compiler():
    """The C++ compiler as a command line, or None."""
    if os.environ.get("CXX"):
        command = shlex.split(os.environ["CXX"])
        return command if shutil.which(command[0]) else None
    return next(([path] for path in map(shutil.which, ("c++", "g++", "clang++")) if path), None)


def compiles(command):
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "probe.cpp")
        source.write_text("#include <vector>\nint main() { return std::vector<int>().size(); }\n")
        try:
            run = [*command, "-std=c++20", str(source), "-o", str(Path(scratch, "probe"))]
            return subprocess.run(run, capture_output=True).returncode == 0
        except OSError:
            return False


def torch_dir():
    """Where torch lives, without importing it: a build needs its headers and libtorch_cpu, not its Python."""
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent if spec and spec.origin else None


def blocker():
    """Why this machine can't build the libraries, or None; an error in our sources is no such reason."""
    if os.environ.get("EQUIFAST_NATIVE") == "0":
        return "EQUIFAST_NATIVE=0"
    if sys.platform == "win32":
        return "no native build for Windows yet"
    if torch_dir() is None:
        return "no torch in the build environment (install torch, then build with --no-build-isolation)"
    version = metadata.version("torch")
    if tuple(int(part) for part in version.split(".")[:2]) < (2, 10):
        return f"torch {version} is older than 2.10, the first with the stable ABI used here"
    for name in ("cmake", "ninja"):
        if tool(name) is None:
            return f"{name} not found"
    if importlib.util.find_spec("pybind11") is None:
        return "pybind11 not found"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "no Python headers (Python.h)"
    if compiler() is None:
        return f"no C++ compiler ({os.environ.get('CXX') or 'c++'} not found)"
    if not compiles(compiler()):
        return f"the C++ compiler ({shlex.join(compiler())}) can't build a C++20 program"
    return None


def write_build_json(package, facts):
    Path(package).mkdir(parents=True, exist_ok=True)
    Path(package, "_build.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


class BuildPython(build_py):
    def run(self):
        package = ROOT / "equifast" if self.editable_mode else Path(self.build_lib, "equifast")
        if not self.editable_mode:
            # Else modules deleted since the last build would stay in the wheel.
            shutil.rmtree(package, ignore_errors=True)
        super().run()
        if not self.distribution.ext_modules:
            for stale in [package / "_cpu.so", *package.glob("_helper.*")]:
                stale.unlink(missing_ok=True)
            write_build_json(package, {"native": False, "reason": REASON})


class BuildNative(build_ext):
    def get_outputs(self):
        return [str(self.destination() / name) for name in ("_cpu.so", HELPER, "_build.json")]

    def get_output_mapping(self):
        return {}

    def destination(self):
        in_place = self.inplace or self.editable_mode
        return ROOT / "equifast" if in_place else Path(self.build_lib, "equifast")

    def run(self):
        import pybind11

        torch = torch_dir()
        configuration = [
            f"-DCMAKE_CXX_COMPILER={';'.join([shutil.which(compiler()[0]), *compiler()[1:]])}",
            f"-DCMAKE_CXX_FLAGS={os.environ.get('CXXFLAGS', '')}",
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DEQUIFAST_TORCH_DIR={torch}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        # One build tree for each configuration, outside setuptools' temporary folders: editable installs and
        # wheels share their object files, and a change of compiler or of torch never meets a stale cache.
        digest = hashlib.sha256("\n".join(configuration).encode()).hexdigest()[:8]
        tree = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}-{digest}"
        jobs = os.environ.get("MAX_JOBS")

        print(f"equifast {self.distribution.get_version()}: native build in {tree.relative_to(ROOT)}")
        print(f"  torch {metadata.version('torch')} in {torch}")
        print(f"  pybind11 {pybind11.__version__}, Python {platform.python_version()}")
        print(f"  compiler {shlex.join(compiler())}, MAX_JOBS {jobs or 'not set'}", flush=True)
        cmake = tool("cmake")
        self.call(cmake, "-S", ROOT, "-B", tree, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", *configuration)
        self.call(cmake, "--build", tree, *(["--parallel", jobs] if jobs else []))

        package = self.destination()
        facts = {
            "native": True,
            "torch": metadata.version("torch"),
            "cxxflags": os.environ.get("CXXFLAGS", ""),
        }
        write_build_json(package, facts | json.loads((tree / "build_facts.json").read_text()))
        for name in ("_cpu.so", HELPER):
            # Rename into place: a running process keeps the library it has mapped.
            shutil.copy2(tree / name, package / (name + ".new"))
            os.replace(package / (name + ".new"), package / name)

    def call(self, *command):
        if subprocess.run(list(map(str, command))).returncode:
            sys.exit("equifast: the native build failed (see above; EQUIFAST_NATIVE=0 installs without it)")


REASON = blocker()
if REASON:
    if os.environ.get("EQUIFAST_REQUIRE_NATIVE") == "1":
        sys.exit(f"equifast: EQUIFAST_REQUIRE_NATIVE=1, but the native libraries can't be built: {REASON}")
    print(f"equifast: pure-Python build without native libraries: {REASON}", file=sys.stderr)

setup(
    ext_modules=[] if REASON else [Extension("equifast._cpu", []), Extension("equifast._helper", [])],
    cmdclass={"build_py": BuildPython, "build_ext": BuildNative},
)
