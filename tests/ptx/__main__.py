"""``python -m tests.ptx [what pytest takes]``: tests in which the executor runs the PTX of the CUDA kernels; with
``--triton``, that of Triton's.

Where no tests are named, all laws of the ops and all tests of the executor; with ``--few``, of the laws those that
sanitizers watch too, and of Triton's kernels, which are compiled anew for each kind of case, the first case of each
law. The executor has to know, to the byte, what memory there is, so the process is one that AddressSanitizer watches.
"""

import os
import sys

from ..emulation.build import PTX, TRITON, environment

LAWS = {PTX: ["tests/ops", "tests/laws/test_definitions.py", "tests/ptx"], TRITON: ["tests/ops", "tests/ptx"]}
FEW = {PTX: ["-m", "sanitized or ptx"], TRITON: ["-p", "tests.ptx.once"]}

if __name__ == "__main__":
    given = sys.argv[1:]
    variant = TRITON if "--triton" in given else PTX
    few = FEW[variant] if "--few" in given else []
    given = [argument for argument in given if argument not in ("--triton", "--few")]
    laws = [] if any(os.path.exists(argument.partition("::")[0]) for argument in given) else LAWS[variant]
    command = [sys.executable, "-m", "pytest", *few, *given, *laws]
    os.execve(sys.executable, command, environment(variant))
