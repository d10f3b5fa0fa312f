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
from collections import namedtuple
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent

#: The packages that a build needs, by name, as pip spells them: 'cmake>=3.20'. pyproject.toml has the lists.
LISTS = dict(re.findall(r"^(dependencies|requires) = (\[.+\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
REQUIREMENTS = {name: text for text, name in re.findall(r'"((\w+)[^"]*)"', LISTS["dependencies"] + LISTS["requires"])}

#: GPUs that `_cuda` has machine code for, if nvcc knows them: that of the first GPU of a generation runs on all of it.
#: PTX of the first serves whatever lies between, that of the last what is yet to come.
GPUS = ("8.0", "9.0", "10.0", "12.0")

#: The version has its suffix, which the metadata of the package lacks: 2.13.0+cu130.
Torch = namedtuple("Torch", ("folder", "version", "cuda"))


def version(text):
    """The leading numbers of a version: (2, 13, 0) of '2.13.0+cpu'."""
    return tuple(map(int, re.findall(r"\d+", re.match(r"[\d.]*", text)[0])))


def attempt(*command):
    """The result of a command. One that can't be started has failed without output."""
    try:
        return subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return subprocess.CompletedProcess(command, 127, "", "")


def version_of(program):
    """The version that a program prints of itself, or nothing."""
    return next(iter(re.findall(r"(?:version|release) ([\d.]+)", attempt(program, "--version").stdout)), "")


def tools(name):
    """Paths of a build tool: on PATH (build isolation prepends its own), then beside this interpreter."""
    found = shutil.which(name), shutil.which(name, path=sysconfig.get_path("scripts"))
    return list(dict.fromkeys(filter(None, found)))


def cmake():
    """Path of the first CMake that is new enough, or None. An old one on PATH must not hide a newer one."""
    return next((path for path in tools("cmake") if not package_problem("cmake", version_of(path))), None)


def compiler():
    """The C++ compiler as a command line, whose program is a path, or None."""
    given = shlex.split(os.environ.get("CXX", ""))
    paths = map(shutil.which, given[:1] or ("c++", "g++", "clang++"))
    return next(([path, *given[1:]] for path in paths if path), None)


@functools.cache
def compiles(*command, suffix=".cpp"):
    """Whether a compiler can build a C++20 program."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "probe" + suffix)
        source.write_text("#include <vector>\nint main() { return std::vector<int>().size(); }\n")
        return attempt(*command, "-std=c++20", source, "-o", source.with_suffix("")).returncode == 0


@functools.cache
def torch():
    """The installed torch, or None. It isn't imported: a build needs its headers and libtorch_cpu, not its Python."""
    # pip's build isolation hides the installed torch by PYTHONPATH and PYTHONNOUSERSITE, which -E ignores.
    search = "from importlib.util import find_spec; print(getattr(find_spec('torch'), 'origin', ''), end='')"
    spec = importlib.util.find_spec("torch")
    folder = Path(spec and spec.origin or attempt(sys.executable, "-E", "-c", search).stdout).parent
    if not (folder / "version.py").exists():
        return None
    names = dict(re.findall(r"^(\w+)[^=\n]*= *['\"](.+)['\"]", (folder / "version.py").read_text(), re.MULTILINE))
    return Torch(folder, names["__version__"], names.get("cuda"))


def pure_reason():
    """Why the native libraries are left out though nothing is wrong, or None."""
    return (
        (os.environ.get("EQUIFAST_NATIVE") == "0" and "EQUIFAST_NATIVE=0")
        or (sys.platform == "win32" and "no native build for Windows yet")
        or (not os.environ.get("CXX") and not compiler() and "no C++ compiler (c++, g++ or clang++) on PATH")
        or None
    )


def package_problem(name, has):
    """What is wrong with a package of this version (None: there is none), or None."""
    if has is None:
        return f"{name} is not installed"
    return f"{name} {has} is too old" if version(has) < version(REQUIREMENTS[name].partition(">=")[2]) else None


def faults():
    """What keeps this machine from building the libraries: all that is wrong, by package or `compiler`."""
    found = {"torch": torch() and torch().version, "ninja": "" if tools("ninja") else None}
    wrong = {name: package_problem(name, has) for name, has in found.items()}
    older = " and ".join(f"{path} is version {version_of(path) or 'unknown'}" for path in tools("cmake"))
    wrong["cmake"] = None if cmake() else f"cmake is too old: {older}" if older else "cmake is not installed"
    if compiler() is None:
        given = os.environ.get("CXX")
        wrong["compiler"] = f"CXX={given} is not a program: unset CXX, or set it to a C++20 compiler"
    elif not compiles(*compiler()):
        advice = "set CXX to a newer compiler, such as g++-12"
        wrong["compiler"] = f"{shlex.join(compiler())} can't build a C++20 program: {advice}"
    return {name: text for name, text in wrong.items() if text}


def problem():
    """Everything that keeps this machine from building the libraries, and how to mend it, or None."""
    wrong = faults()
    lines = ["the native libraries can't be built:", *(f"  * {text}" for text in wrong.values())]
    # An installer that hides torch hides the build tools too, so then all of them are named.
    if needed := [text for name, text in REQUIREMENTS.items() if name in wrong or "torch" in wrong]:
        lines.append(f"To mend this: pip install {shlex.join(needed)} && pip install --no-build-isolation .")
    lines.append("To install without them: EQUIFAST_NATIVE=0 pip install . (the same results, several times slower)")
    return "\n".join(lines) if wrong else None


def refusal(builds):
    """Why setup.py can't run a command, or None. One that builds nothing, such as sdist, needs setuptools only."""
    if not os.access(ROOT, os.W_OK):
        return f"{ROOT} is read-only, and a build writes to it: copy it to a folder of yours and install that"
    if text := package_problem("setuptools", metadata.version("setuptools")):
        return f"{text}: pip install {shlex.quote(REQUIREMENTS['setuptools'])}"
    if not builds:
        return None
    reason = pure_reason()
    if reason is None and (text := problem()):
        return text
    for variable, blocker in {"EQUIFAST_REQUIRE_NATIVE": reason, "EQUIFAST_CUDA": reason or cuda_blocker()}.items():
        if blocker and os.environ.get(variable, "") not in ("", "0", "auto"):
            return f"{variable}={os.environ[variable]}, but what it asks for can't be built: {blocker}"
    return None


def nvcc():
    """Path of nvcc, or None: where torch looks for it, in its order."""
    homes = filter(None, map(os.environ.get, ("CUDA_HOME", "CUDA_PATH")))
    places = [*(Path(home, "bin", "nvcc") for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
    return next(filter(None, map(shutil.which, places)), None)


def host_compiler():
    """Path of our compiler for nvcc to call, or None: CUDAHOSTCXX names one, or ours has options (a cache)."""
    return compiler()[0] if len(compiler()) == 1 and not os.environ.get("CUDAHOSTCXX") else None


def cuda_blocker():
    """Why `_cuda` isn't built, or None: the first of these reasons."""
    wanted, (_, release, cuda) = os.environ.get("EQUIFAST_CUDA") or "auto", torch()
    toolkit = version_of(nvcc() or "nvcc")
    mismatch = f"nvcc {toolkit} isn't of the CUDA {cuda} that torch {release} was built with"
    probe = [nvcc(), *([f"--compiler-bindir={host_compiler()}"] if host_compiler() else [])]
    reason = (
        (wanted == "0" and "EQUIFAST_CUDA=0")
        or (wanted not in ("1", "auto") and f"EQUIFAST_CUDA: expected 0, 1 or auto, got '{wanted}'")
        or (sys.platform != "linux" and f"no CUDA kernels for {sys.platform}")
        or (not list(ROOT.glob("csrc/cuda/kernels/*.cu")) and "this source tree has no csrc/cuda")
        or (wanted != "1" and not cuda and f"torch {release} has no CUDA")
        or (not nvcc() and "no nvcc")
        or (version(toolkit) < (12, 0) and f"nvcc {toolkit} is older than 12.0, the first with C++20")
        or (cuda and version(cuda)[0] != version(toolkit)[0] and mismatch)
        or (not compiles(*probe, suffix=".cu") and f"nvcc {toolkit} can't build a C++20 program with its host compiler")
    )
    try:
        return reason or (archs() and None)
    except ValueError as error:
        return str(error)


def archs():
    """What `_cuda` is built for, as CMake spells it: machine code alone is `80-real`, with PTX of it `80`."""
    names = re.sub("[,;]", " ", os.environ.get("TORCH_CUDA_ARCH_LIST", "")).split()
    if not names:
        listed = re.findall(r"compute_(\d+)", attempt(nvcc(), "--list-gpu-arch").stdout)
        known = [name for name in GPUS if name.replace(".", "") in listed]
        names = [name + "+PTX" * (name in (known[0], known[-1])) for name in known]
    parts = [re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", name) for name in names]
    if None in parts:
        wrong = names[parts.index(None)]
        raise ValueError(f"TORCH_CUDA_ARCH_LIST: expected names such as 8.0, 9.0a or 12.0+PTX, got '{wrong}'")
    # Older ones lack the instructions, but other packages may serve them.
    chosen = [f"{part[1]}{part[2]}{'' if part[3] else '-real'}" for part in parts if int(part[1]) >= 8]
    if not chosen:
        raise ValueError(f"TORCH_CUDA_ARCH_LIST: expected 8.0 or newer among them, got '{' '.join(names)}'")
    return list(dict.fromkeys(chosen))


def configuration():
    """The variables of CMake that decide what the compilers make, and what _build.json says of it."""
    settings = {
        "CMAKE_CXX_COMPILER": ";".join(compiler()),
        "CMAKE_CXX_FLAGS": os.environ.get("CXXFLAGS", ""),
        "EQUIFAST_TORCH_CUDA": torch().cuda or "none",
        "EQUIFAST_TORCH_DIR": str(torch().folder),
        "EQUIFAST_TORCH_VERSION": torch().version,
    }
    if cuda_blocker() is None:
        settings |= {"CMAKE_CUDA_COMPILER": nvcc(), "CMAKE_CUDA_ARCHITECTURES": ";".join(archs())}
        settings |= {"CMAKE_CUDA_HOST_COMPILER": host_compiler()} if host_compiler() else {}
    return settings
