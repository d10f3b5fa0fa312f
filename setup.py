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

import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # a setuptools older than 70, which `problem` names
    bdist_wheel = Command

ROOT = Path(__file__).resolve().parent
HELPER = "_helper" + sysconfig.get_config_var("EXT_SUFFIX")

#: Oldest versions that a build takes; pyproject.toml asks for the same ones.
OLDEST = {"torch": (2, 10), "setuptools": (77,), "cmake": (3, 20), "ninja": (), "pybind11": (2, 13)}

#: Commands that build, or that describe what a build will be. Any other command, such as sdist, works without tools.
BUILDS = {"bdist_wheel", "build", "build_ext", "build_py", "dist_info", "editable_wheel", "install"}

#: GPUs that `_cuda` has machine code for, if nvcc knows them: that of the first GPU of a generation runs on all of it.
#: PTX of the first serves whatever lies between, that of the last what is yet to come.
GPUS = ((8, 0), (9, 0), (10, 0), (12, 0))


def version(text):
    """The leading numbers of a version: (2, 13, 0) of '2.13.0+cpu'."""
    return tuple(map(int, re.match(r"[\d.]*\d|", text)[0].split("."))) if text[:1].isdigit() else ()


def requirement(name):
    """As pip spells it: 'cmake>=3.20'."""
    return name + (">=" + ".".join(map(str, OLDEST[name])) if OLDEST[name] else "")


def tools(name):
    """Paths of a build tool: on PATH (build isolation prepends its own), then beside this interpreter."""
    found = shutil.which(name), shutil.which(name, path=sysconfig.get_path("scripts"))
    return list(dict.fromkeys(filter(None, found)))


def printed(*command):
    """What a command prints, or nothing where it can't be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""


@functools.cache
def cmakes():
    """Version of each CMake, by path. An old one on PATH must not hide a newer one beside this interpreter."""
    return {path: printed(path, "--version").partition("cmake version ")[2].split("\n")[0] for path in tools("cmake")}


def cmake():
    """Path of the first CMake that is new enough, or None."""
    return next((path for path, found in cmakes().items() if version(found) >= OLDEST["cmake"]), None)


def compiler():
    """The C++ compiler as a command line, or None."""
    if os.environ.get("CXX"):
        command = shlex.split(os.environ["CXX"])
        return command if shutil.which(command[0]) else None
    return next(([path] for path in map(shutil.which, ("c++", "g++", "clang++")) if path), None)


@functools.cache
def compiles(*command, suffix=".cpp"):
    """Whether a compiler can build a C++20 program."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "probe" + suffix)
        source.write_text("#include <vector>\nint main() { return std::vector<int>().size(); }\n")
        try:
            run = [*command, "-std=c++20", str(source), "-o", str(Path(scratch, "probe"))]
            return subprocess.run(run, capture_output=True).returncode == 0
        except OSError:
            return False


class Torch(NamedTuple):
    folder: Path
    version: str  # with its suffix, which the metadata of the package lacks: 2.13.0+cu130
    cuda: str | None


@functools.cache
def torch():
    """The installed torch, or None. It isn't imported: a build needs its headers and libtorch_cpu, not its Python."""
    spec = importlib.util.find_spec("torch")
    place = spec.origin if spec and spec.origin else printed(sys.executable, "-E", "-c", FIND_TORCH).strip()
    if not place or not Path(place).with_name("version.py").exists():
        return None
    folder = Path(place).parent
    names = dict(re.findall(r"^(\w+)[^=\n]*= *['\"](.+)['\"]", (folder / "version.py").read_text(), re.MULTILINE))
    return Torch(folder, names["__version__"], names.get("cuda"))


#: pip's build isolation hides the installed torch by PYTHONPATH and PYTHONNOUSERSITE, which -E ignores.
FIND_TORCH = "from importlib.util import find_spec; print(getattr(find_spec('torch'), 'origin', ''))"


def pure_reason():
    """Why the native libraries are left out though nothing is wrong, or None."""
    if os.environ.get("EQUIFAST_NATIVE") == "0":
        return "EQUIFAST_NATIVE=0"
    if sys.platform == "win32":
        return "no native build for Windows yet"
    if not os.environ.get("CXX") and compiler() is None:
        return "no C++ compiler (c++, g++ or clang++) on PATH"
    return None


def missing():
    """The packages that a native build lacks: what is wrong with each, by name."""
    found = {"torch": torch() and torch().version, "cmake": "", "ninja": "any" if tools("ninja") else None}
    for name in ("setuptools", "pybind11"):
        found[name] = metadata.version(name) if importlib.util.find_spec(name) else None
    wrong = {name: f"{name} {has} is too old" for name, has in found.items() if has and version(has) < OLDEST[name]}
    wrong |= {name: f"{name} is not installed" for name, has in found.items() if has is None}
    if cmake() is None:
        older = " and ".join(f"{path} is version {found or 'unknown'}" for path, found in cmakes().items())
        wrong["cmake"] = older and f"cmake is too old: {older}" or "cmake is not installed"
    return {name: wrong[name] for name in OLDEST if name in wrong}


def compiler_problem():
    """What is wrong with the C++ compiler, with advice, or None."""
    if compiler() is None:
        return f"CXX={os.environ.get('CXX')} is not a program: unset CXX, or set it to a C++20 compiler"
    if not compiles(*compiler()):
        return f"{shlex.join(compiler())} can't build a C++20 program: set CXX to a newer compiler, such as g++-12"
    return None


def problem():
    """Everything that keeps this machine from building the libraries, and how to mend it, or None."""
    packages, compilers = missing(), compiler_problem()
    if not packages and not compilers:
        return None
    lines = ["the native libraries can't be built:"]
    lines += [f"  * {text}" for text in (*packages.values(), compilers) if text]
    if packages:
        # An installer that hides torch hides the build tools too, so then all of them are named.
        needed = [shlex.quote(requirement(name)) for name in (OLDEST if "torch" in packages else packages)]
        lines.append(f"To mend this: pip install {' '.join(needed)} && pip install --no-build-isolation .")
    lines.append("To install without them: EQUIFAST_NATIVE=0 pip install . (the same results, several times slower)")
    return "\n".join(lines)


def nvcc():
    """Path of nvcc, or None: where torch looks for it, in its order."""
    homes = filter(None, map(os.environ.get, ("CUDA_HOME", "CUDA_PATH")))
    places = [*(Path(home, "bin", "nvcc") for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
    return next(filter(None, map(shutil.which, places)), None)


def nvcc_version():
    found = re.search(r"release (\d+)\.(\d+)", printed(nvcc(), "--version"))
    return tuple(map(int, found.groups())) if found else (0, 0)


def host_compiler():
    """What nvcc is told of ours: nothing of one with options, such as a cache's, which CUDAHOSTCXX may name."""
    plain = len(compiler()) == 1 and not os.environ.get("CUDAHOSTCXX")
    return [shutil.which(compiler()[0])] if plain else []


def cuda_blocker():
    """Why `_cuda` isn't built, or None."""
    wanted = os.environ.get("EQUIFAST_CUDA") or "auto"
    if wanted == "0":
        return "EQUIFAST_CUDA=0"
    if wanted not in ("1", "auto"):
        return f"EQUIFAST_CUDA: expected 0, 1 or auto, got '{wanted}'"
    if sys.platform != "linux":
        return f"no CUDA kernels for {sys.platform}"
    if not list(ROOT.glob("csrc/cuda/*.cu")):
        return "this source tree has no csrc/cuda"
    if torch().cuda is None and wanted != "1":
        return f"torch {torch().version} has no CUDA"
    if nvcc() is None:
        return "no nvcc"
    ours = "{}.{}".format(*nvcc_version())
    if nvcc_version() < (12, 0):
        return f"nvcc {ours} is older than 12.0, the first with C++20"
    if torch().cuda is not None and ours.split(".")[0] != torch().cuda.split(".")[0]:
        return f"nvcc {ours} isn't of the CUDA {torch().cuda} that torch {torch().version} was built with"
    if not compiles(nvcc(), *(f"--compiler-bindir={path}" for path in host_compiler()), suffix=".cu"):
        return f"nvcc {ours} can't build a C++20 program with its host compiler"
    try:
        archs()
    except ValueError as error:
        return str(error)
    return None


def archs():
    """What `_cuda` is built for, as CMake spells it: machine code alone is `80-real`, with PTX of it `80`."""
    given = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if not given.strip(" ,;"):
        listed = {int(code) for code in re.findall(r"compute_(\d+)", printed(nvcc(), "--list-gpu-arch"))}
        known = [(major, minor) for major, minor in GPUS if 10 * major + minor in listed]
        return [f"{10 * a + b}{'' if (a, b) in (known[0], known[-1]) else '-real'}" for a, b in known]
    chosen = []
    for name in re.split(r"[\s,;]+", given.strip(" ,;")):
        parts = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
        if parts is None:
            raise ValueError(f"TORCH_CUDA_ARCH_LIST: expected names such as 8.0, 9.0a or 12.0+PTX, got '{name}'")
        if int(parts[1]) >= GPUS[0][0]:  # older ones lack the instructions, but other packages may serve them
            chosen.append(f"{parts[1]}{parts[2]}{parts[3]}{'' if parts[4] else '-real'}")
    if not chosen:
        raise ValueError(f"TORCH_CUDA_ARCH_LIST: expected 8.0 or newer among them, got '{given}'")
    return list(dict.fromkeys(chosen))


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
if "setuptools" in missing():  # any command needs it, to read pyproject.toml
    sys.exit(f"equifast: {missing()['setuptools']}: pip install {shlex.quote(requirement('setuptools'))}")
HAS_HEADERS = Path(sysconfig.get_path("include"), "Python.h").exists()
LIBRARIES = ["_cpu.so"] + ["_cuda.so"] * (CUDA_REASON is None) + [HELPER] * HAS_HEADERS

setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    ext_modules=[] if REASON else [Extension(f"equifast.{name.split('.')[0]}", []) for name in LIBRARIES],
    cmdclass={"bdist_wheel": BuildWheel, "build_py": BuildPython, "build_ext": BuildNative},
)
