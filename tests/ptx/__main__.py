"""``python -m tests.ptx [what pytest takes]``: tests in which the executor runs the PTX of the CUDA kernels.

Without arguments, all laws of the ops and all tests of the executor; with ``--few``, of the laws those that
sanitizers watch too. The executor has to know, to the byte, what memory there is, so the process is one that
AddressSanitizer watches.
"""

import os
import sys

from ..emulation.build import environment

ALL = ["tests/ops", "tests/laws/test_definitions.py", "tests/ptx"]
FEW = ["-m", "sanitized or ptx", *ALL]

if __name__ == "__main__":
    given = sys.argv[1:] or ALL
    if "--few" in given:
        given = [*FEW, *(argument for argument in given if argument != "--few")]
    os.execve(sys.executable, [sys.executable, "-m", "pytest", *given], environment("ptx"))
