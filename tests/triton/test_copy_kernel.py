"""The copy that limits are taken from."""

import pytest
import torch

from benchmarks.harness.copy_kernel import BLOCK
from benchmarks.harness.limits import COPIES


@pytest.mark.parametrize("count", [0, 1, 1000, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_the_kernel_copies_every_number(count):
    x = torch.rand(count)
    assert torch.equal(COPIES["copy kernel"](x), x)
