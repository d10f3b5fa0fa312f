"""``python -m benchmarks.counted``: counts what the CUDA kernels do, and prints it; ``--write`` writes docs/counted.md.

The executor of tests/ptx runs the kernels as nvcc compiles them. Its process is one that AddressSanitizer watches.
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.emulation.build import PTX, environment, variant
from tests.ptx.compiled import blocker


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counted", description="CUDA kernels, counted.")
    parser.add_argument("--write", action="store_true", help="write docs/counted.md")
    parser.add_argument("--only", default="", help="count the problems alone whose names have this in them")
    parser.add_argument("--lines", type=int, default=0, help="list so many instructions of each kernel")
    options = parser.parse_args()
    if reason := blocker():
        parser.error(reason)
    if options.write and options.only:
        parser.error("--write counts all problems")
    if variant() != PTX:
        os.execve(sys.executable, [sys.executable, "-m", __package__, *sys.argv[1:]], environment(PTX))
    from . import page

    page.main(options.only, options.lines, options.write)


if __name__ == "__main__":
    main()
