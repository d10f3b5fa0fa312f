"""Malformed arguments: an error that says something, or an output. Nothing crashes, hangs or takes all memory.

Whether something reads or writes beyond a tensor, sanitizers tell that run this file (tests/sanitizers).
"""

import pytest
import torch

from ..backend import only
from ..definitions import check
from ..malformed import malformed
from ..samples import ARGUMENTS, samples

ERRORS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)


@pytest.mark.filterwarnings("ignore")
@only("cpu", "reference", because="these are the ops as users of a CPU have them")
@pytest.mark.parametrize("op", ARGUMENTS)
def test_malformed_arguments_are_errors_or_give_an_output(op):
    kept = [sample for sample in samples(torch.float32) if sample.op == op][::3]
    refused = 0
    for sample in kept:
        for wrong in malformed(sample):
            try:
                wrong.run()
            except ERRORS as error:
                assert str(error), wrong
                refused += 1
        check(sample)
    assert refused > 10
