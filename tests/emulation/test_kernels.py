"""The CUDA kernels, emulated: every op of the samples against its eager definition."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from equifast.ops import registry

from ..cases import DEVICE_KINDS, DTYPES, assert_near, assert_same, samples
from ..gpu.device import expected
from .emulated import OPS, WITH_TF32, call, surrounded

pytestmark = pytest.mark.usefixtures("emulated")


def of(op, dtype, **options):
    return [sample for sample in samples(dtype, **options) if sample.op == op]


def check(sample, **options):
    for out, true in zip(call(sample.op, *sample.args, **options), expected(sample), strict=True):
        assert (out.shape, out.dtype) == (true.shape, true.dtype), sample
        # Sums of a few more roundings than what they stand for; orbit_inner cancels.
        scale = 10 if "inner" in sample.op or "backward" in sample.op else 4
        try:
            assert_near(out, true, scale=scale)
        except AssertionError as error:
            raise AssertionError(f"{sample}: {error}") from None


def test_these_ops_are_there():
    prefix = "equifast_emulated::"
    assert {n.removeprefix(prefix) for n in torch._C._dispatch_get_all_op_names() if n.startswith(prefix)} == set(OPS)


@pytest.mark.parametrize(("dtype", "batch", "layout"), DEVICE_KINDS, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_every_op_is_its_eager_definition(op, dtype, batch, layout):
    for sample in of(op, dtype, batch=batch, layout=layout):
        check(sample)


@pytest.mark.parametrize("op", OPS)
def test_nothing_beside_a_tensor_is_read(op):
    """NaN lies around each and between its rows, which begin at any address."""
    for dtype, layout, before in ((torch.float32, "cropped", 64), (torch.bfloat16, "transposed", 61)):
        for sample in of(op, dtype, layout=layout):
            check(surrounded(sample, before))


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(t, marks=[pytest.mark.sanitized] * (t in (torch.float32, torch.float16))) for t in DTYPES],
    ids=str,
)
@pytest.mark.parametrize("op", OPS)
def test_the_same_bits_every_time(op, dtype):
    for sample in of(op, dtype, layout="channels_last" if dtype == torch.float16 else "contiguous")[::4]:
        first, second = (call(sample.op, *sample.args, tf32=True) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("op", WITH_TF32)
def test_tf32_is_for_float32_alone(op):
    for dtype in (torch.float64, torch.bfloat16):
        for sample in of(op, dtype):
            plain, allowed = (call(sample.op, *sample.args, tf32=tf32) for tf32 in (False, True))
            for one, other in zip(plain, allowed, strict=True):
                assert_same(one, other)


@pytest.mark.parametrize(("dtype", "batch", "layout"), DEVICE_KINDS, ids=str)
def test_python_calls_them_and_knows_what_they_return(dtype, batch, layout, monkeypatch):
    """As on a GPU that CUDA C++ serves: through what `register` puts there, with the strides that compilers expect."""
    monkeypatch.setitem(registry.CHOSEN, "cpu", "cuda")
    monkeypatch.setattr(torch.ops, "equifast_cuda", torch.ops.equifast_emulated)
    for op in OPS:
        (run,) = registry.implementations(op, ("cuda",)).values()
        for sample in of(op, dtype, batch=batch, layout=layout):
            out = run(*sample.args)
            with FakeTensorMode() as mode:
                fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in sample.args]
                told = getattr(torch.ops.equifast, op)(*fakes)
            for a, b in zip(*(t if isinstance(t, tuple) else (t,) for t in (out, told)), strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype), sample
                assert a.numel() == 0 or a.stride() == b.stride(), sample
