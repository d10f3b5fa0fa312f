"""Every op of schemas.txt by samples: torch.library.opcheck, and each kernel against the op's definition."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from equifast.ops import registry
from equifast.schemas import SCHEMAS

from ..backend import by_backend, only, ops
from ..cases import DEVICE_KINDS, DTYPES, amid_nan, assert_same
from ..convolutions import products_of
from ..definitions import CHEAP, check, in_tuple
from ..samples import Sample, samples

pytestmark = pytest.mark.usefixtures("float32_in_float32")

OPS = ops()


def of(op, dtype, **options):
    return [sample for sample in samples(dtype, **options) if sample.op == op]


def opcheck(sample, **options):
    args = [arg.detach().clone().requires_grad_(arg.requires_grad) if is_tensor(arg) else arg for arg in sample.args]
    torch.library.opcheck(getattr(torch.ops.equifast, sample.op).default, args, **options)


def is_tensor(arg):
    return isinstance(arg, torch.Tensor)


def test_every_op_has_samples():
    assert {sample.op for sample in samples(torch.float32)} == set(SCHEMAS)
    names = torch._C._dispatch_get_all_op_names()
    defined = {name.partition("::")[2] for name in names if name.startswith("equifast::")}
    assert defined == set(registry.FALLBACKS) == set(SCHEMAS)


def test_none_stands_for_an_empty_list():
    """AOTInductor passes one for the other."""
    found = 0
    for sample in samples(torch.float32):
        args = tuple(None if isinstance(arg, list) and not arg else arg for arg in sample.args)
        if sample.op in OPS and any(a is not b for a, b in zip(args, sample.args, strict=True)):
            found += 1
            for ours, theirs in zip(Sample(sample.op, args).run(), sample.run(), strict=True):
                assert_same(ours, theirs)
    assert found > 8


@only("cpu", because="once is enough")
@pytest.mark.parametrize("sample", list(samples(torch.float32)), ids=str)
def test_opcheck(sample):
    opcheck(sample, test_utils=CHEAP)


@only("cpu", because="once is enough")
@pytest.mark.parametrize(
    "sample", list({s.op: s for s in samples(torch.float32, requires_grad=True)}.values()), ids=str
)
def test_opcheck_through_aot_autograd(sample):
    opcheck(sample)


@only("cpu", because="once is enough")
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
        opcheck(sample, test_utils=CHEAP)


#: Dtype, batch and layout.
KINDS = by_backend(
    [(dtype, batch, "contiguous") for dtype in (torch.float64, torch.float32, torch.bfloat16) for batch in (0, 2)],
    DEVICE_KINDS,
)


@only("cpu", "emulation", "gpu", because="it is the definition, or its kernels have enough to do in tests/ops")
@pytest.mark.parametrize(("dtype", "batch", "layout"), KINDS, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_every_op_is_its_definition(op, dtype, batch, layout):
    """The definition runs where there is no kernel, or where EQUIFAST_BACKEND=reference asks for it."""
    for sample in of(op, dtype, batch=batch, layout=layout):
        check(sample)


@only("cpu", "emulation", "gpu", because="it reads by torch, or through NumPy")
@pytest.mark.parametrize("op", OPS)
def test_nothing_beside_a_tensor_is_read(op):
    """NaN lies around each and between its rows, which begin at any address."""
    for dtype, layout, before in ((torch.float32, "cropped", 64), (torch.bfloat16, "transposed", 61)):
        for sample in of(op, dtype, layout=layout):
            args = tuple(amid_nan(a, before) if is_tensor(a) else a for a in sample.args)
            check(Sample(op, args))


@only("cpu", "emulation", "gpu", because="these kernels have enough to do in tests/ops")
@pytest.mark.parametrize(
    "dtype",
    [pytest.param(t, marks=[pytest.mark.sanitized] * (t in (torch.float32, torch.float16))) for t in DTYPES],
    ids=str,
)
@pytest.mark.parametrize("op", OPS)
def test_the_same_bits_every_time(op, dtype):
    with products_of("tf32"):
        for sample in of(op, dtype, layout="channels_last" if dtype == torch.float16 else "contiguous")[::4]:
            for one, other in zip(sample.run(), sample.run(), strict=True):
                assert_same(one, other)


@only("emulation", "gpu", because="there is no TF32")
@pytest.mark.parametrize("op", [op for op in OPS if "conv2d" in op])
def test_tf32_is_for_float32_alone(op):
    for dtype in (torch.float64, torch.bfloat16):
        for sample in of(op, dtype):
            with products_of(torch.float32):
                plain = sample.run()
            with products_of("tf32"):
                allowed = sample.run()
            for one, other in zip(plain, allowed, strict=True):
                assert_same(one, other)


@only("emulation", "gpu", because="opcheck holds it")
@pytest.mark.parametrize(("dtype", "batch", "layout"), DEVICE_KINDS, ids=str)
def test_fake_kernels_know_what_comes_out(dtype, batch, layout):
    """With the strides that compilers expect."""
    for op in OPS:
        for sample in of(op, dtype, batch=batch, layout=layout):
            with FakeTensorMode() as mode:
                fakes = [mode.from_tensor(a) if is_tensor(a) else a for a in sample.args]
                told = in_tuple(getattr(torch.ops.equifast, op)(*fakes))
            for a, b in zip(sample.run(), told, strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype), sample
                assert a.numel() == 0 or a.stride() == b.stride(), sample
