"""Connects setuptools with CMake. toolchain.py looks at the machine; CMakeLists.txt builds the libraries, reports what
it builds, and writes that to equifast/_build.json. All other metadata is in pyproject.toml.

A build makes the libraries, or it fails and names everything that is missing. It leaves them out in two cases: where
EQUIFAST_NATIVE=0 asks for that, and where there is no C++ compiler at all. docs/install.md lists all variables.

scikit-build-core would not do. It can leave CMake out after a failure, but not for the lack of a compiler alone, so an
error in the sources would make a pure wheel. It names one missing tool at a time, and sees no torch behind isolation.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
import toolchain  # noqa: E402

#: Commands that build, or that describe what a build will be. Any other command, such as sdist, works without tools.
BUILDS = {"bdist_wheel", "build", "build_ext", "build_py", "dist_info", "editable_wheel", "install"}

if text := toolchain.refusal(builds=bool(BUILDS.intersection(sys.argv))):
    sys.exit(f"equifast: {text}")
PURE = toolchain.pure_reason()

from setuptools import Distribution, setup  # noqa: E402
from setuptools.command.bdist_wheel import bdist_wheel  # noqa: E402
from setuptools.command.build_ext import build_ext  # noqa: E402
from setuptools.command.build_py import build_py  # noqa: E402


def readme():
    """README.md for a package index, where links into the source tree need its address."""
    source = re.search(r'^Source = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    link = re.compile(r"(!?)(\[[^]]*\]\()(?!https?:|#)")
    return link.sub(lambda m: f"{m[0]}{source}/{'raw' if m[1] else 'blob'}/main/", (ROOT / "README.md").read_text())


def cmake(*arguments):
    if subprocess.run([toolchain.cmake(), *map(str, arguments)]).returncode:
        sys.exit("equifast: the native build failed (see above; EQUIFAST_NATIVE=0 installs without it)")


def build():
    """Builds the libraries, and returns CMake's folder with them."""
    # Each configuration has a folder of its own, outside setuptools' temporary ones: editable installs and wheels share
    # their object files, and a change of compiler or of torch never meets a stale cache.
    settings = toolchain.configuration()
    commands = [value.split(";") for name, value in settings.items() if name.endswith("_COMPILER")]
    versions = [toolchain.attempt(*command, "--version").stdout for command in commands]
    digest = hashlib.sha256(repr([settings, versions]).encode()).hexdigest()[:8]
    tree = ROOT / "build" / f"cmake-{digest}"
    # These may change for the same libraries. Build isolation, for one, puts the tools into another folder each time.
    settings["CMAKE_MAKE_PROGRAM"] = toolchain.tools("ninja")[0]
    settings["EQUIFAST_CUDA_BLOCKER"] = toolchain.cuda_blocker() or ""
    jobs = os.environ.get("MAX_JOBS")
    print(f"equifast: native build in {tree.relative_to(ROOT)}, MAX_JOBS {jobs or 'not set'}", flush=True)
    cmake("-S", ROOT, "-B", tree, "-G", "Ninja", *(f"-D{name}={value}" for name, value in settings.items()))
    cmake("--build", tree, *(["--parallel", jobs] if jobs else []))
    return tree


def fill(command):
    """Puts the libraries into the package that a command builds, and _build.json, which tells of them."""
    in_place = command.editable_mode or getattr(command, "inplace", False)
    package = ROOT / "equifast" if in_place else Path(command.build_lib, "equifast")
    tree = None if PURE else build()
    # Files are removed and made anew, not overwritten: a running process keeps the library that it has loaded.
    for old in [*package.glob("_*.so"), *package.glob("_build.json")]:
        old.unlink()
    if PURE:
        print(f"equifast: pure-Python build without native libraries: {PURE}", file=sys.stderr)
        (package / "_build.json").write_text(json.dumps({"native": False, "reason": PURE}) + "\n")
    else:
        cmake("--install", tree, "--prefix", package)


class BuildPython(build_py):
    def run(self):
        if not self.editable_mode:  # else modules deleted since the last build would stay in the wheel
            shutil.rmtree(Path(self.build_lib, "equifast"), ignore_errors=True)
        super().run()
        if PURE:
            fill(self)


class BuildNative(build_ext):
    run = fill


class BuildWheel(bdist_wheel):
    def get_tag(self):
        # One wheel serves every Python and every torch >= 2.10: the libraries have no Python symbols, and register
        # through LibTorch's stable ABI.
        return ("py3", "none", super().get_tag()[2])


class Platform(Distribution):
    def has_ext_modules(self):
        return not PURE


setup(
    distclass=Platform,
    ext_modules=[],
    long_description=readme(),
    long_description_content_type="text/markdown",
    cmdclass={"bdist_wheel": BuildWheel, "build_py": BuildPython, "build_ext": BuildNative},
)
