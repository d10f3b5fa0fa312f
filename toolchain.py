"""What a native build needs, and what this machine has of it. setup.py imports this; nothing here imports torch."""

import functools
import importlib.util
import os
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

ROOT = Path(__file__).resolve().parent

#: Oldest versions that a build takes; pyproject.toml asks for the same ones.
OLDEST = {"torch": (2, 10), "setuptools": (77,), "cmake": (3, 20), "ninja": (), "pybind11": (2, 13)}

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


def package_problem(name, has):
    """What is wrong with a package of this version (None: there is none), or None."""
    if has is None:
        return f"{name} is not installed"
    return f"{name} {has} is too old" if version(has) < OLDEST[name] else None


def missing():
    """The packages that a native build lacks: what is wrong with each, by name."""
    found = {"torch": torch() and torch().version, "ninja": "" if tools("ninja") else None}
    for name in ("setuptools", "pybind11"):
        found[name] = metadata.version(name) if importlib.util.find_spec(name) else None
    wrong = {name: package_problem(name, has) for name, has in found.items()}
    older = " and ".join(f"{path} is version {found or 'unknown'}" for path, found in cmakes().items())
    wrong["cmake"] = None if cmake() else f"cmake is too old: {older}" if older else "cmake is not installed"
    return {name: wrong[name] for name in OLDEST if wrong[name]}


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
    if not list(ROOT.glob("csrc/cuda/kernels/*.cu")):
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
