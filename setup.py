"""Builds the native libraries with CMake and ninja; all other metadata is in pyproject.toml.

A build makes the libraries, or it fails and names everything that is missing. It leaves them out in two cases: where
EQUIFAST_NATIVE=0 asks for that, and where there is no C++ compiler at all. docs/install.md lists all variables.

`_cuda` is built where there are nvcc (CUDA_HOME, PATH) and a torch of the same CUDA. EQUIFAST_CUDA=0 leaves it out;
EQUIFAST_CUDA=1 makes its absence an error, and builds it for a torch without CUDA too. TORCH_CUDA_ARCH_LIST chooses
what it runs on, as for torch ("8.0;9.0a;12.0+PTX").

One wheel serves every Python and every torch >= 2.10: `_cpu` and `_cuda` have no Python symbols, and register through
LibTorch's stable ABI. The pybind11 module `_helper`, which tells facts about the build, loads in the Python that built
it only; elsewhere the package works without.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # a setuptools older than 70, which `problem` names
    bdist_wheel = Command

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from toolchain import (  # noqa: E402
    archs,
    cmake,
    compiler,
    cuda_blocker,
    host_compiler,
    nvcc,
    package_problem,
    printed,
    problem,
    pure_reason,
    requirement,
    tools,
    torch,
)

HELPER = "_helper" + sysconfig.get_config_var("EXT_SUFFIX")

#: Commands that build, or that describe what a build will be. Any other command, such as sdist, works without tools.
BUILDS = {"bdist_wheel", "build", "build_ext", "build_py", "dist_info", "editable_wheel", "install"}


def readme():
    """README.md for a package index, where links into the source tree need its address."""
    source = re.search(r'^Source = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    text = (ROOT / "README.md").read_text()
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\1{source}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^]]*\]\()(?!https?:|#)", rf"\1{source}/blob/main/", text)


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
            for stale in [package / "_cpu.so", package / "_cuda.so", *package.glob("_helper.*")]:
                stale.unlink(missing_ok=True)
            write_build_json(package, {"native": False, "reason": REASON})


class BuildWheel(bdist_wheel):
    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


class BuildNative(build_ext):
    def get_outputs(self):
        return [str(self.destination() / name) for name in (*LIBRARIES, "_build.json")]

    def get_output_mapping(self):
        return {}

    def destination(self):
        in_place = self.inplace or self.editable_mode
        return ROOT / "equifast" if in_place else Path(self.build_lib, "equifast")

    def run(self):
        import pybind11

        configuration = [
            f"-DCMAKE_CXX_COMPILER={';'.join([shutil.which(compiler()[0]), *compiler()[1:]])}",
            f"-DCMAKE_CXX_FLAGS={os.environ.get('CXXFLAGS', '')}",
            f"-DEQUIFAST_TORCH_DIR={torch().folder}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DEQUIFAST_HELPER={'ON' if HELPER in LIBRARIES else 'OFF'}",
        ]
        versions = [torch().version]
        if CUDA_REASON is None:
            configuration += [
                "-DEQUIFAST_CUDA=ON",
                f"-DCMAKE_CUDA_COMPILER={nvcc()}",
                f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(archs())}",
                *(f"-DCMAKE_CUDA_HOST_COMPILER={path}" for path in host_compiler()),
            ]
            versions.append(printed(nvcc(), "--version"))  # its path may stay the same
        # One build tree for each configuration, outside setuptools' temporary folders: editable installs and
        # wheels share their object files, and a change of compiler or of torch never meets a stale cache.
        digest = hashlib.sha256("\n".join(configuration + versions).encode()).hexdigest()[:8]
        tree = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}-{digest}"
        # Build isolation puts these two in another folder each time, for the same result.
        configuration.append(f"-DCMAKE_MAKE_PROGRAM={tools('ninja')[0]}")
        configuration.append(f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
        jobs = os.environ.get("MAX_JOBS")

        print(f"equifast {self.distribution.get_version()}: native build in {tree.relative_to(ROOT)}")
        print(f"  torch {torch().version} in {torch().folder}")
        print(f"  pybind11 {pybind11.__version__}, Python {platform.python_version()}")
        if HELPER not in LIBRARIES:
            print("  _helper is left out: this Python has no headers (Python.h)")
        print(f"  compiler {shlex.join(compiler())}, MAX_JOBS {jobs or 'not set'}")
        built = CUDA_REASON and f"not built: {CUDA_REASON}"
        print(f"equifast: _cuda {built or f'by {nvcc()} for ' + ' '.join(archs())}", flush=True)
        self.call(cmake(), "-S", ROOT, "-B", tree, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", *configuration)
        self.call(cmake(), "--build", tree, *(["--parallel", jobs] if jobs else []))

        package = self.destination()
        facts = {
            "native": True,
            "torch": torch().version,
            "torch_cuda": torch().cuda or "none",
            "python": platform.python_version(),
            "pybind11": pybind11.__version__,
            "cxxflags": os.environ.get("CXXFLAGS", ""),
            "cuda": {"reason": CUDA_REASON},
        }
        write_build_json(package, facts | json.loads((tree / "build_facts.json").read_text()))
        if CUDA_REASON:
            (package / "_cuda.so").unlink(missing_ok=True)
        for name in LIBRARIES:
            # Rename into place: a running process keeps the library it has mapped.
            shutil.copy2(tree / name, package / (name + ".new"))
            os.replace(package / (name + ".new"), package / name)

    def call(self, *command):
        if subprocess.run(list(map(str, command))).returncode:
            sys.exit("equifast: the native build failed (see above; EQUIFAST_NATIVE=0 installs without it)")


if not os.access(ROOT, os.W_OK):
    sys.exit(f"equifast: {ROOT} is read-only, and a build writes to it: copy it to a folder of yours and install that")
REASON = pure_reason()
if BUILDS.intersection(sys.argv):
    if REASON and os.environ.get("EQUIFAST_REQUIRE_NATIVE") == "1":
        sys.exit(f"equifast: EQUIFAST_REQUIRE_NATIVE=1, but the native libraries can't be built: {REASON}")
    if REASON:
        print(f"equifast: pure-Python build without native libraries: {REASON}", file=sys.stderr)
    elif text := problem():
        sys.exit(f"equifast: {text}")
    CUDA_REASON = REASON or cuda_blocker()
    if CUDA_REASON and os.environ.get("EQUIFAST_CUDA", "0") not in ("", "0", "auto"):
        sys.exit(f"equifast: EQUIFAST_CUDA={os.environ['EQUIFAST_CUDA']}, but _cuda can't be built: {CUDA_REASON}")
else:
    CUDA_REASON = "nothing is built"
if text := package_problem("setuptools", metadata.version("setuptools")):  # any command needs it, for pyproject.toml
    sys.exit(f"equifast: {text}: pip install {shlex.quote(requirement('setuptools'))}")
HAS_HEADERS = Path(sysconfig.get_path("include"), "Python.h").exists()
LIBRARIES = ["_cpu.so"] + ["_cuda.so"] * (CUDA_REASON is None) + [HELPER] * HAS_HEADERS

setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    ext_modules=[] if REASON else [Extension(f"equifast.{name.split('.')[0]}", []) for name in LIBRARIES],
    cmdclass={"bdist_wheel": BuildWheel, "build_py": BuildPython, "build_ext": BuildNative},
)
