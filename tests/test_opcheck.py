"""torch.library.opcheck of every op in schemas.txt, and each op's fallback against its kernel."""

import pytest
import torch

from equifast.ops import registry
from equifast.schemas import SCHEMAS

from .cases import assert_near, samples

CHEAP = ("test_schema", "test_autograd_registration", "test_faketensor")


def check(sample, **options):
    args = [arg.detach().clone().requires_grad_(arg.requires_grad) if is_tensor(arg) else arg for arg in sample.args]
    torch.library.opcheck(getattr(torch.ops.equifast, sample.op).default, args, **options)


def is_tensor(arg):
    return isinstance(arg, torch.Tensor)


def test_every_op_has_samples():
    assert {sample.op for sample in samples(torch.float32)} == set(SCHEMAS)
    defined = {
        name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if name.startswith("equifast::")
    }
    assert defined == set(registry.FALLBACKS) == set(SCHEMAS)


@pytest.mark.parametrize("sample", list(samples(torch.float32)), ids=str)
def test_opcheck(sample):
    check(sample, test_utils=CHEAP)


@pytest.mark.parametrize(
    "sample", list({s.op: s for s in samples(torch.float32, requires_grad=True)}.values()), ids=str
)
def test_opcheck_through_aot_autograd(sample):
    check(sample)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    ("dtype", "batch", "layout"),
    [
        (torch.float64, 3, "contiguous"),
        (torch.bfloat16, 2, "contiguous"),
        (torch.float16, 1, "transposed"),
        (torch.float32, 2, "channels_last"),
        (torch.float32, 0, "contiguous"),
    ],
    ids=str,
)
def test_opcheck_of_any_dtype_layout_and_batch(dtype, batch, layout, requires_grad):
    for sample in samples(dtype, batch=batch, layout=layout, requires_grad=requires_grad):
        check(sample, test_utils=CHEAP)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [0, 2])
def test_the_fallback_is_the_kernel(dtype, batch):
    """What runs where there is no native library, or where EQUIFAST_BACKEND=reference asks for it."""
    for sample in samples(dtype, batch=batch):
        out = registry.FALLBACKS[sample.op](*sample.args)
        for actual, expected in zip(sample.run(), out if isinstance(out, tuple) else (out,), strict=True):
            assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), sample
            assert actual.stride() == expected.stride() or 0 in actual.shape, sample
            assert_near(actual, expected, scale=4)
