"""Where these tests run, and why some can't: on the first CUDA device, by compiled kernels.

``EQUIFAST_BACKEND=cuda pytest tests/gpu`` tests the kernels in CUDA C++, ``EQUIFAST_BACKEND=triton`` those in Triton;
with neither, whatever is selected.

``TRITON_INTERPRET=1 EQUIFAST_BACKEND=triton EQUIFAST_GPU_TESTS_ON=cpu pytest tests/gpu`` runs those that need no device
of their own on the CPU, by interpreted kernels: that shows that the tests are right, not that the kernels are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from equifast import backends, kernels
from equifast.ops import registry
from equifast.schemas import SCHEMAS

from ..samples import Sample, samples

DEVICE = torch.device(os.environ.get("EQUIFAST_GPU_TESTS_ON", "cuda"))
DRY = DEVICE.type == "cpu"

#: Backends that share the ops among them here, one if it is forced; and the ops that any of them has kernels for.
BACKENDS = registry.CONTENDERS.get(DEVICE.type, ())
OPS = tuple(op for op in SCHEMAS if registry.implementations(op, BACKENDS)) or tuple(kernels.FILES)


def _why_not() -> str:
    if DRY:
        return "" if backends.INTERPRETING else "EQUIFAST_GPU_TESTS_ON=cpu without TRITON_INTERPRET=1"
    if not torch.cuda.is_available():
        return "no GPU: torch.cuda.is_available() is false"
    return "kernels are interpreted in this process (TRITON_INTERPRET)" if backends.INTERPRETING else ""


#: For all tests of a file.
gpu = [pytest.mark.gpu, pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "runs")]

#: Of those, for the ones that the interpreter can't run, or not in reasonable time.
device_only = pytest.mark.skipif(DRY, reason="needs a CUDA device of its own")
triton_only = pytest.mark.skipif(BACKENDS != ("triton",), reason="about Triton's launches: EQUIFAST_BACKEND=triton")
large = pytest.mark.skipif(DRY, reason="too large for Triton's interpreter")


def move(t: Tensor) -> Tensor:
    """To the device with the same strides and offset, which ``Tensor.to`` doesn't keep where elements overlap."""
    storage = torch.empty(0, dtype=t.dtype).set_(t.untyped_storage()).to(DEVICE)
    return storage.as_strided(t.shape, t.stride(), t.storage_offset()).requires_grad_(t.requires_grad)


def moved(sample: Sample) -> Sample:
    return Sample(sample.op, tuple(move(a.detach()) if isinstance(a, Tensor) else a for a in sample.args))


def with_kernels(dtype: torch.dtype = torch.float32) -> Iterator[Sample]:
    """Of each op with kernels, one sample with exact elements alone and one that interpolates, on the CPU."""
    found = [sample for sample in samples(dtype) if sample.op in OPS]
    for op in OPS:
        mine = [sample for sample in found if sample.op == op]
        yield from (mine[0], mine[-1])
