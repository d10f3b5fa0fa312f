"""Calls every op with less memory than it needs: ``python -m tests.starved``, for `tests/laws/test_huge.py`.

It prints the ops, each after an error that a lack of memory caused and a right answer after that.
"""

from __future__ import annotations

import resource
from pathlib import Path

import torch

from equifast.groups import as_group

from .definitions import check
from .samples import ARGUMENTS, Choices, Sample, samples

#: Address space beyond what is used, in bytes: for small things alone, for a part of the output, for all but scratch
#: memory. Without any, torch ends the process, as it needs some for the text of its error.
ALLOWANCES = [2**k for k in range(15, 25)]

#: Batches, of which the first that is large enough is taken: an output has to take more than the C library has left.
BATCHES = [256, 2048, 16384]


class Large(Choices):
    """Many channels and long vectors."""

    def size(self, usual, low, high):
        return high

    def shape(self, height, width):
        return 6, 6


def used() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def run_starved(sample: Sample, allowance: int) -> bool:
    """Whether a lack of memory was an error."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used() + allowance, most))
    try:
        sample.run()
    except (RuntimeError, MemoryError):
        return True
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return False


def main() -> None:
    torch.set_num_threads(1)
    usual = list(samples(torch.float32))
    for op, known in sorted(ARGUMENTS.items()):
        of_op = [sample for sample in usual if sample.op == op]
        for sample in of_op:
            check(sample)  # so that all that is loaded late is there
        for batch in BATCHES:
            errors = 0
            for args in known.of(Large(known.dtypes[0], as_group("C8"), batch=batch, flag=True)):
                for allowance in ALLOWANCES:
                    errors += run_starved(Sample(op, args), allowance)
                    check(of_op[0])
            if errors:
                break
        else:
            raise AssertionError(f"{op} needed no memory")
        print(op, flush=True)


if __name__ == "__main__":
    main()
