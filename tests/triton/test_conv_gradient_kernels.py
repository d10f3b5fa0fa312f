"""The Triton kernels of the gradients of `orbit_conv2d`, in Triton's interpreter."""

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F

from equifast import reference
from equifast.groups import as_group

from ..cases import assert_near_overall, rand

triton = pytest.importorskip("triton")
if not triton.knobs.runtime.interpret:
    pytest.skip("needs TRITON_INTERPRET=1 before import", allow_module_level=True)

from equifast.kernels import orbit_conv2d_backward as host  # noqa: E402
from equifast.kernels import orbit_conv2d_grad_input as grad_input  # noqa: E402
from equifast.kernels import orbit_conv2d_grad_weight as grad_weight  # noqa: E402

EAGER = sys.modules["equifast.ops.orbit_conv2d"]._backward_eager
OTHERS = (host, "base_images", host.base_images), (host, "_interpolation_adjoint", host._interpolation_adjoint)
ALL = [True, True, True]
GROUPS = ["C1", "C4", "C5", "C6", "C8", "D1", "D3", "D4"]
NAMES = ("stride", "padding", "dilation")
PLAIN = ((1, 1), (0, 0), (1, 1))
OPTIONS = [
    PLAIN,
    ((2, 2), (1, 1), (1, 1)),
    ((2, 1), (1, 2), (1, 2)),
    ((3, 3), (0, 2), (2, 1)),
    ((2, 4), (3, 0), (1, 1)),
]


@pytest.fixture(autouse=True)
def other_kernels_are_eager(monkeypatch):
    """They have tests of their own, and the interpreter is slow."""

    def base_images(x, bases, mode):
        images = torch.cat([reference.sample(x, (0, base), mode) for base in bases])
        return images.contiguous(memory_format=torch.channels_last) if x.stride(1) == 1 else images

    monkeypatch.setattr(host, "base_images", base_images)
    monkeypatch.setattr(
        host, "_interpolation_adjoint", lambda y, base, mode: reference.sample_adjoint(y, (0, base), mode)
    )


def problem(group, *, batch=1, shape=(6, 6), channels=(3, 5), kernel=(2, 2), options=PLAIN, mode="border", dtype=None):
    """Arguments of the op but the last, grad first."""
    dtype = dtype or torch.float64
    order = as_group(group).order
    size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(shape, kernel, *options, strict=True)]
    grad = rand(order * batch, channels[1], *size, dtype=dtype, seed=1)
    x, weight = rand(batch, channels[0], *shape, dtype=dtype), rand(*channels[::-1], *kernel, dtype=dtype, seed=2)
    return grad, x, weight, list(as_group(group).action_table(inverse=True)), *map(list, options), mode


def expected(group, grad, x, weight, table, stride, padding, dilation, mode):
    """By autograd in float64, of members rounded to the type of x."""
    grad, leaf, w = grad.double(), x.double().requires_grad_(), weight.double().requires_grad_()
    bias = torch.zeros(len(w), dtype=torch.float64, requires_grad=True)
    options = (stride, padding, dilation)
    out = reference.orbit_conv2d(
        leaf, w, bias, group=group, padding_mode=mode, **dict(zip(NAMES, options, strict=True))
    )
    members = F.conv2d(reference.orbit(x, group, padding_mode=mode).double(), w, bias, *options)
    return *torch.autograd.grad(out, leaf, grad), *torch.autograd.grad(members, (w, bias), grad)


def check(group, args, needs=ALL, scale=4.0, about=""):
    actual = host.orbit_conv2d_backward(*args, needs)
    for name, like, a, e, needed in zip(
        "xwb", args[1:3] + args[2:3], actual, expected(group, *args), needs, strict=True
    ):
        assert a.dtype == like.dtype
        if needed:
            assert_near_overall(a, e, scale, f"{group} {name} {about}")
        else:
            assert a.shape == (0,)
    return actual


def weight_configs():
    shapes = itertools.product([16, 20, 64, 70], [9, 147], [(5, 5), (14, 14)])
    kinds = [(torch.float64, "ieee"), (torch.float32, "ieee"), (torch.float32, "tf32")]
    listed = (grad_weight.configs(*s[:2], *s[2], *kind) for s in shapes for kind in kinds)
    return {str(c): c for c in itertools.chain.from_iterable(listed)}


def input_configs():
    shapes = itertools.product([3, 20, 64, 70], [(1, 1), (2, 2)], [8, 64])
    kinds = [(torch.float64, "ieee"), (torch.float32, "ieee"), (torch.float32, "tf32")]
    listed = (grad_input.configs(c, s, True, n, *kind) for c, s, n in shapes for kind in kinds)
    return {str(c): c for c in itertools.chain.from_iterable(listed)}


def test_every_configuration_of_the_weights(monkeypatch):
    args = problem("C4", shape=(9, 9), channels=(3, 20), dtype=torch.float32)
    for name, config in weight_configs().items():
        monkeypatch.setattr(grad_weight, "configs", lambda *_, config=config: [config])
        grad_weight.KERNEL._launches.clear()
        check("C4", args, [False, True, True], about=name)
    grad_weight.KERNEL._launches.clear()


def test_every_configuration_of_the_input(monkeypatch):
    args = problem("D1", shape=(9, 9), channels=(3, 20), dtype=torch.float32)
    for name, config in input_configs().items():
        monkeypatch.setattr(grad_input, "configs", lambda *_, config=config: [config])
        grad_input.KERNEL._launches.clear()
        check("D1", args, [True, False, False], about=name)
    grad_input.KERNEL._launches.clear()


@pytest.mark.parametrize("processors", [1, 3, 1000])
def test_however_the_sum_is_cut(monkeypatch, processors):
    monkeypatch.setattr(grad_weight, "processors", lambda device: processors)
    grad_weight.KERNEL._launches.clear()
    for group in ("C4", "C3"):
        check(group, problem(group, batch=3, shape=(9, 9), dtype=torch.float32), [False, True, True])
    grad_weight.KERNEL._launches.clear()


def test_offsets_of_64_bits(monkeypatch):
    for module in (grad_weight, grad_input):
        monkeypatch.setattr(module, "padded_span", lambda *_: 1 << 31)
        module.KERNEL._launches.clear()
    check("C3", problem("C3", options=OPTIONS[2]))
    for module in (grad_weight, grad_input):
        module.KERNEL._launches.clear()


def test_precision_follows_pytorch():
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        for allowed in ("tf32", "ieee"):
            torch.backends.cudnn.conv.fp32_precision = allowed
            assert host.input_precision(torch.float32) == allowed
            assert host.input_precision(torch.float16) == host.input_precision(torch.float64) == "ieee"
            check("C4", problem("C4", dtype=torch.float32))
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
