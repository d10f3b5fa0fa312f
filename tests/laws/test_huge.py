"""Strides of more than 2³¹ values, sizes that overflow, and memory that runs out: for every op."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from equifast.groups import as_group

from ..backend import only
from ..cases import assert_same
from ..samples import ARGUMENTS, USUAL, Choices, Sample

ROOT = Path(__file__).parents[2]

pytestmark = only("cpu", because="these are the ops as users of a CPU have them")


class Far(Choices):
    """Images of which one axis has a stride so large that its last value lies more than 2³¹ values after the first."""

    axis = -1

    def images(self, *shape):
        dense = super().images(*shape).contiguous()
        n = shape[self.axis]
        if n == 1:
            return dense
        strides = list(dense.stride())
        strides[self.axis] = far = 2**31 // (n - 1) + 1
        # Only pages that are written get memory.
        storage = torch.UntypedStorage(dense.element_size() * (far * (n - 1) + dense.numel()))
        return torch.empty(0, dtype=dense.dtype).set_(storage, 0, shape, strides).copy_(dense)


@pytest.mark.parametrize("axis", [-4, -3, -2, -1])
@pytest.mark.parametrize("op", ARGUMENTS)
def test_strides_past_2_to_the_31(op, axis):
    known = ARGUMENTS[op]
    for name, *options in USUAL[1:]:
        far, near = (kind(known.dtypes[0], as_group(name), *options) for kind in (Far, Choices))
        far.axis = axis
        for distant, dense in zip(known.of(far), known.of(near), strict=True):
            for ours, theirs in zip(Sample(op, distant).run(), Sample(op, dense).run(), strict=True):
                assert_same(ours, theirs)


def test_without_memory_every_op_is_an_error_and_the_next_call_works():
    """In a process of its own, whose address space is limited while the ops run."""
    memory = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}  # the C library takes no more than it needs
    environment = os.environ | memory | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.starved"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
    assert done.stdout.split() == sorted(ARGUMENTS)
