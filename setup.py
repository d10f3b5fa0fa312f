"""Builds the native libraries with CMake and ninja; all other metadata is in pyproject.toml.

Environment: EQUIFAST_NATIVE=0 leaves the native libraries out, EQUIFAST_REQUIRE_NATIVE=1 makes their absence
an error, CXX and CXXFLAGS choose the compiler and its flags, MAX_JOBS bounds the parallel compile jobs.

`_cuda` is built where there are nvcc (CUDA_HOME, PATH) and a torch of the same CUDA. EQUIFAST_CUDA=0 leaves it out;
EQUIFAST_CUDA=1 makes its absence an error, and builds it for a torch without CUDA too. TORCH_CUDA_ARCH_LIST chooses
what it runs on, as for torch ("8.0;9.0a;12.0+PTX").

The wheel carries an ordinary cpXY tag. `_cpu.so` alone would serve every Python (it has no Python symbols)
and every torch >= 2.10 (LibTorch stable ABI), but the pybind11 module `_helper` belongs to one Python.
"""

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

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
HELPER = "_helper" + sysconfig.get_config_var("EXT_SUFFIX")

#: GPUs that `_cuda` has machine code for, if nvcc knows them: that of the first GPU of a generation runs on all of it.
#: PTX of the first serves whatever lies between, that of the last what is yet to come.
GPUS = ((8, 0), (9, 0), (10, 0), (12, 0))


def tool(name):
    """Path of a build tool: PATH first (build isolation prepends its own), then beside this interpreter."""
    return shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))


def compiler():
    """The C++ compiler as a command line, or None."""
    if os.environ.get("CXX"):
        command = shlex.split(os.environ["CXX"])
        return command if shutil.which(command[0]) else None
    return next(([path] for path in map(shutil.which, ("c++", "g++", "clang++")) if path), None)


def compiles(command, suffix=".cpp"):
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "probe" + suffix)
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


def cuda_of_torch():
    """Version of the CUDA that torch was built with, or None."""
    found = re.search(r"^cuda\b[^=]*=\s*['\"](.+)['\"]", (torch_dir() / "version.py").read_text(), re.MULTILINE)
    return found and found[1]


def nvcc():
    """Path of nvcc, or None: where torch looks for it, in its order."""
    homes = filter(None, map(os.environ.get, ("CUDA_HOME", "CUDA_PATH")))
    places = [*(Path(home, "bin", "nvcc") for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
    return next(filter(None, map(shutil.which, places)), None)


def ask_nvcc(option):
    try:
        return subprocess.run([nvcc(), option], capture_output=True, text=True).stdout
    except OSError:
        return ""


def nvcc_version():
    found = re.search(r"release (\d+)\.(\d+)", ask_nvcc("--version"))
    return tuple(map(int, found.groups())) if found else (0, 0)


def host_compiler():
    """What nvcc is told of ours: nothing of one with options, such as a cache's, which CUDAHOSTCXX may name."""
    plain = len(compiler()) == 1 and not os.environ.get("CUDAHOSTCXX")
    return [shutil.which(compiler()[0])] if plain else []


def cuda_blocker():
    """Why `_cuda` isn't built, or None."""
    wanted = os.environ.get("EQUIFAST_CUDA") or "auto"
    theirs = cuda_of_torch()
    if wanted == "0":
        return "EQUIFAST_CUDA=0"
    if wanted not in ("1", "auto"):
        return f"EQUIFAST_CUDA: expected 0, 1 or auto, got '{wanted}'"
    if sys.platform != "linux":
        return f"no CUDA kernels for {sys.platform}"
    if not list(ROOT.glob("csrc/cuda/*.cu")):
        return "this source tree has no csrc/cuda"
    if theirs is None and wanted != "1":
        return f"torch {metadata.version('torch')} has no CUDA"
    if nvcc() is None:
        return "no nvcc"
    ours = "{}.{}".format(*nvcc_version())
    if nvcc_version() < (12, 0):
        return f"nvcc {ours} is older than 12.0, the first with C++20"
    if theirs is not None and ours.split(".")[0] != theirs.split(".")[0]:
        return f"nvcc {ours} isn't of the CUDA {theirs} that torch {metadata.version('torch')} was built with"
    if not compiles([nvcc(), *(f"--compiler-bindir={path}" for path in host_compiler())], ".cu"):
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
        listed = {int(code) for code in re.findall(r"compute_(\d+)", ask_nvcc("--list-gpu-arch"))}
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

        torch = torch_dir()
        configuration = [
            f"-DCMAKE_CXX_COMPILER={';'.join([shutil.which(compiler()[0]), *compiler()[1:]])}",
            f"-DCMAKE_CXX_FLAGS={os.environ.get('CXXFLAGS', '')}",
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DEQUIFAST_TORCH_DIR={torch}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        versions = []
        if CUDA_REASON is None:
            configuration += [
                "-DEQUIFAST_CUDA=ON",
                f"-DCMAKE_CUDA_COMPILER={nvcc()}",
                f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(archs())}",
                *(f"-DCMAKE_CUDA_HOST_COMPILER={path}" for path in host_compiler()),
            ]
            versions = [ask_nvcc("--version")]  # its path may stay the same
        # One build tree for each configuration, outside setuptools' temporary folders: editable installs and
        # wheels share their object files, and a change of compiler or of torch never meets a stale cache.
        digest = hashlib.sha256("\n".join(configuration + versions).encode()).hexdigest()[:8]
        tree = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}-{digest}"
        jobs = os.environ.get("MAX_JOBS")

        print(f"equifast {self.distribution.get_version()}: native build in {tree.relative_to(ROOT)}")
        print(f"  torch {metadata.version('torch')} in {torch}")
        print(f"  pybind11 {pybind11.__version__}, Python {platform.python_version()}")
        print(f"  compiler {shlex.join(compiler())}, MAX_JOBS {jobs or 'not set'}")
        built = CUDA_REASON and f"not built: {CUDA_REASON}"
        print(f"equifast: _cuda {built or f'by {nvcc()} for ' + ' '.join(archs())}", flush=True)
        cmake = tool("cmake")
        self.call(cmake, "-S", ROOT, "-B", tree, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", *configuration)
        self.call(cmake, "--build", tree, *(["--parallel", jobs] if jobs else []))

        package = self.destination()
        facts = {
            "native": True,
            "torch": metadata.version("torch"),
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


REASON = blocker()
if REASON:
    if os.environ.get("EQUIFAST_REQUIRE_NATIVE") == "1":
        sys.exit(f"equifast: EQUIFAST_REQUIRE_NATIVE=1, but the native libraries can't be built: {REASON}")
    print(f"equifast: pure-Python build without native libraries: {REASON}", file=sys.stderr)
CUDA_REASON = REASON or cuda_blocker()
if CUDA_REASON and os.environ.get("EQUIFAST_CUDA", "0") not in ("", "0", "auto"):
    sys.exit(f"equifast: EQUIFAST_CUDA={os.environ['EQUIFAST_CUDA']}, but _cuda can't be built: {CUDA_REASON}")
LIBRARIES = ("_cpu.so", HELPER) if CUDA_REASON else ("_cpu.so", "_cuda.so", HELPER)

setup(
    ext_modules=[] if REASON else [Extension(f"equifast.{name.split('.')[0]}", []) for name in LIBRARIES],
    cmdclass={"build_py": BuildPython, "build_ext": BuildNative},
)
