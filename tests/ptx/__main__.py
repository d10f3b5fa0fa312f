"""``python -m tests.ptx [what pytest takes]``: tests of the ops in which the executor runs the PTX of the CUDA kernels.

The executor has to know, to the byte, what memory there is, so the process is one that AddressSanitizer watches.
"""

import os
import sys

from ..emulation.build import environment

if __name__ == "__main__":
    given = sys.argv[1:] or ["tests/ops", "tests/laws/test_definitions.py", "tests/ptx"]
    os.execve(sys.executable, [sys.executable, "-m", "pytest", *given], environment("ptx"))
