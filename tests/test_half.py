"""Half precision in the variant for CPUs without F16C."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from equifast.backends import native

HERE = Path(__file__).resolve().parent
COMPILER = shlex.split(os.environ.get("CXX", "c++"))


@pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="needs a C++ compiler")
@pytest.mark.skipif("avx2" not in native.build_info().get("isas", ()), reason="needs an x86 CPU")
def test_conversions_are_those_of_the_hardware(tmp_path):
    """All halves, and floats of every exponent, sign and fraction around each tie: NaN, infinities, subnormals."""
    program, source = tmp_path / "program", HERE / "half_conversions.cpp"
    flags = ["-std=c++20", *native.build_info()["flags"].split(), "-march=x86-64-v2", f"-I{HERE.parent / 'csrc'}"]
    subprocess.run([*COMPILER, *flags, source, "-o", program], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    if result.returncode == 77:
        pytest.skip("this CPU has no F16C")
    assert (result.returncode, result.stdout) == (0, f"{1 << 16} {1 << 22}\n")
