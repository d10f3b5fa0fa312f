"""batch_norm_act: PyTorch's batch normalization and activation in float64, sound statistics, and any gradient."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from equifast.backends import helper, native
from equifast.layers import NORM_ACTIVATIONS as ACTIVATIONS
from equifast.ops.batch_norm_act import batch_norm_act

from ..backend import needs, only, over
from ..cases import DTYPES, LAYOUTS, assert_near, assert_near_overall, assert_same, assert_same_sum, rand

pytestmark = needs("batch_norm_act")

EPS = 1e-3
SMOOTH = ["none", "gelu", "gelu_tanh", "silu"]

#: Batch, channels, height and width: one of all but the values of a channel, more lanes than values, more channels than
#: lanes, several pieces that end unevenly.
SHAPES = [(2, 1, 1, 1), (1, 3, 1, 2), (3, 5, 4, 7), (2, 16, 9, 9), (1, 300, 3, 2), (2, 24, 31, 33), (70, 3, 11, 13)]


def defined(x, weight, bias, activation):
    """By PyTorch, in float64."""
    x, weight, bias = (None if t is None else t.double() for t in (x, weight, bias))
    y = F.batch_norm(x, None, None, weight, bias, True, 0.0, EPS)
    return activated(y, activation)


def activated(y, activation):
    """By PyTorch, with a graph."""
    if activation == "gelu_tanh":
        return F.gelu(y, approximate="tanh")
    return y * 1 if activation == "none" else getattr(F, activation)(y)


def parameters(channels, dtype, affine=True):
    if not affine:
        return None, None
    return rand(channels, dtype=dtype, seed=1) + 1.5, rand(channels, dtype=dtype, seed=2)


def gradients(function, *leaves, upstream):
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in leaves]
    out = function(*leaves)
    out = out[0] if isinstance(out, tuple) else out
    found = torch.autograd.grad(out, [t for t in leaves if t is not None], upstream.to(out.dtype))
    return out.detach(), *found


@over(
    150,
    [(SHAPES[i], DTYPES[i % 4], list(ACTIVATIONS)[i % 5], list(LAYOUTS)[i % 3], i % 2 == 0) for i in range(6)],
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(list(ACTIVATIONS)),
    layout=st.sampled_from(["contiguous", "channels_last", "batch_last", "transposed", "every_other_row", "cropped"]),
    affine=st.booleans(),
)
def test_values_and_gradients_are_those_of_pytorch(shape, dtype, activation, layout, affine):
    x = LAYOUTS[layout](rand(*shape, dtype=dtype))
    leaves = x, *parameters(shape[1], dtype, affine)
    upstream = LAYOUTS[layout](rand(*shape, dtype=dtype, seed=3))
    actual = gradients(lambda *t: batch_norm_act(*t, EPS, activation), *leaves, upstream=upstream)
    expected = gradients(lambda *t: defined(*t, activation), *leaves, upstream=upstream.double())
    assert [t.dtype for t in actual] == [dtype] * len(actual)
    # Two values of a channel differ by much of the largest gradient, and their own gradients cancel.
    for ours, theirs in zip(actual, expected, strict=True):
        assert_near_overall(ours, theirs, scale=4)


@only("cpu", because="PyTorch's sums are not as sound")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES[3:], ids=str)
@pytest.mark.parametrize("shift", [0, 2**7, 2**14])
def test_a_shift_of_all_values_moves_the_mean_alone(shift, shape, dtype, layout):
    """The values are multiples of 2⁻⁹, so a float holds what is added to them, and float64 has their exact sum."""
    x = (rand(*shape, dtype=torch.float64) * 2**9).round() / 2**9
    shifted = LAYOUTS[layout]((x + shift).to(dtype))
    assert torch.equal(shifted.double() - shift, x)
    _, mean, var = batch_norm_act(shifted, None, None, EPS, "none")
    unit = torch.finfo(dtype).eps
    assert ((mean - shift).double() - x.mean((0, 2, 3))).abs().max() <= unit * max(shift, 1)
    relative = var.double() / x.var((0, 2, 3), correction=0) - 1
    # Partial sums are in float64.
    assert relative.abs().max() <= max(4 * unit, 64 * torch.finfo(torch.float64).eps * max(shift, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_right_to_rounding(activation, dtype):
    """With a weight of 0, what the activation gets is the bias, and the bias's gradient is the derivative."""
    u = torch.linspace(-20, 20, 40001, dtype=torch.float64).to(dtype)
    x = torch.tensor([-1.0, 1.0], dtype=dtype)[:, None, None, None].expand(2, len(u), 1, 1).clone()
    bias = u.clone().requires_grad_()
    y = batch_norm_act(x, torch.zeros_like(u), bias, EPS, activation)[0]
    (slope,) = torch.autograd.grad(y[0].sum(), bias)
    exact = u.double().requires_grad_()
    expected = activated(exact, activation)
    (expected_slope,) = torch.autograd.grad(expected.sum(), exact)
    unit = torch.finfo(dtype).eps
    error = (y[0].flatten().double() - expected.detach()).abs()
    assert (error <= 4 * unit * u.double().abs().clamp(min=1e-3)).all()
    # In float64 PyTorch's derivative of the approximation is off by 22 units itself, where 1 − tanh² cancels.
    assert ((slope.double() - expected_slope).abs() <= (32 if activation == "gelu_tanh" else 16) * unit).all()


@only("cpu", because="of this much care in the tail, PyTorch has none")
def test_gelu_is_right_where_it_is_tiny():
    u = torch.linspace(-8, 0, 4001)
    x = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, len(u), 1, 1).clone()
    y = batch_norm_act(x, torch.zeros_like(u), u, EPS, "gelu")[0][0].flatten().double()
    expected = u.double() * 0.5 * torch.erfc(-u.double() * 0.5**0.5)
    assert ((y - expected).abs() <= 1e-5 * expected.abs()).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_layout(dtype, layout):
    x, upstream = (LAYOUTS[layout](rand(3, 6, 8, 8, dtype=dtype, seed=seed)) for seed in (0, 1))
    leaves = parameters(6, dtype)
    options = {"upstream": upstream}
    strided = gradients(lambda *t: batch_norm_act(x, *t, EPS, "gelu"), *leaves, **options)
    kept = torch.channels_last if strided[0].is_contiguous(memory_format=torch.channels_last) else None
    assert (kept is not None) == (layout == "channels_last")
    dense = x.contiguous(memory_format=kept or torch.contiguous_format)
    upstream = upstream.contiguous()
    for ours, theirs in zip(
        strided, gradients(lambda *t: batch_norm_act(dense, *t, EPS, "gelu"), *leaves, upstream=upstream), strict=True
    ):
        assert_same_sum(ours, theirs)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(70, 3, 31, 33), (5, 48, 40, 40)], ids=str)
def test_threads_change_no_bit(shape, layout):
    x, upstream = (LAYOUTS[layout](rand(*shape, seed=seed)) for seed in (0, 1))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(
            gradients(lambda *t: batch_norm_act(*t, EPS, "gelu"), x, *parameters(shape[1], x.dtype), upstream=upstream)
        )
    for more in results[1:]:
        for a, b in zip(results[0], more, strict=True):
            assert_same_sum(a, b)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_what_is_not_finite_stays_in_its_channel(layout, activation, value):
    clean, upstream = (LAYOUTS[layout](rand(3, 6, 8, 8, seed=seed)) for seed in (0, 1))
    broken = clean.clone()
    broken[1, 2, 3, 4] = value
    run = [
        gradients(lambda *t: batch_norm_act(*t, EPS, activation), x, *parameters(6, x.dtype), upstream=upstream)
        for x in (clean, broken)
    ]
    others = [0, 1, 3, 4, 5]
    for (y, of_x, *rest), (y_, of_x_, *rest_) in [run]:
        assert y_[:, 2].isnan().all()
        assert_same(y_[:, others], y[:, others])
        assert_same(of_x_[:, others], of_x[:, others])
        for a, b in zip(rest_, rest, strict=True):
            assert_same(a[others], b[others])


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("activation", SMOOTH)
def test_gradcheck_twice(activation, affine):
    x = rand(2, 3, 2, 2, dtype=torch.float64).requires_grad_()
    leaves = [t.requires_grad_() for t in parameters(3, torch.float64)] if affine else []

    def function(x, weight=None, bias=None):
        return batch_norm_act(x, weight, bias, EPS, activation)[0]

    assert gradcheck(function, (x, *leaves))
    assert gradgradcheck(function, (x, *leaves))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pixels_of_the_gradient_that_comes_in_may_share_memory(activation):
    x, shared = rand(2, 1, 2, 2), rand(5, seed=1).as_strided((2, 1, 2, 2), (2, 2, 1, 1))
    found = []
    for grad in (shared, shared.contiguous()):
        leaf = x.clone().requires_grad_()
        out = batch_norm_act(leaf, None, None, 1e-5, activation)[0]
        found += torch.autograd.grad(out, leaf, grad)
    assert_near(*found)


def test_the_gradient_that_comes_in_may_be_a_function_of_x():
    """Three times, by elementary operators: PyTorch's own third derivative takes mean and variance for constants."""

    def elementary(x, weight, bias):
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        return F.gelu((x - mean) / (var + EPS).sqrt() * weight[:, None, None] + bias[:, None, None])

    results = []
    for function in (lambda *t: batch_norm_act(*t, EPS, "gelu")[0], elementary):
        leaves = [t.requires_grad_() for t in (rand(2, 3, 4, 4, dtype=torch.float64), *parameters(3, torch.float64))]
        (first,) = torch.autograd.grad(function(*leaves).pow(3).sum(), leaves[:1], create_graph=True)
        second = torch.autograd.grad(first.square().sum(), leaves, create_graph=True)
        third = torch.autograd.grad(sum(t.square().sum() for t in second), leaves)
        results.append((first, *second, *third))
    for ours, theirs in zip(*results, strict=True):
        assert_near_overall(ours, theirs, scale=100)


@pytest.mark.parametrize("needed", range(3))
def test_only_what_needs_a_gradient_gets_one(needed):
    leaves = rand(2, 3, 4, 4), *parameters(3, torch.float32)
    leaves = [t.detach().requires_grad_(i == needed) for i, t in enumerate(leaves)]
    y, mean, var = batch_norm_act(*leaves, EPS, "gelu")
    assert not mean.requires_grad and not var.requires_grad
    y.square().sum().backward()
    assert [t.grad is not None for t in leaves] == [i == needed for i in range(3)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_images_have_wide_parameters(dtype):
    """As under autocast. Statistics and sums are in float32."""
    x, leaves = rand(4, 3, 20, 20, dtype=dtype) + 3, parameters(3, torch.float32)
    y, mean, var = batch_norm_act(x, *leaves, EPS, "silu")
    assert (y.dtype, mean.dtype, var.dtype) == (dtype, torch.float32, torch.float32)
    assert_near(y, defined(x, *leaves, "silu"))
    assert_near(mean, x.double().mean((0, 2, 3)))
    upstream = rand(*x.shape, dtype=dtype, seed=3)
    ours = gradients(lambda *t: batch_norm_act(x, *t, EPS, "silu"), *leaves, upstream=upstream)
    theirs = gradients(lambda *t: defined(x, *t, "silu"), *leaves, upstream=upstream.double())
    assert all(t.dtype == torch.float32 for t in ours[1:])
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert_near_overall(a, b)


@pytest.mark.slow
@only("cpu", because="the others have one instruction set")
@pytest.mark.parametrize("isa", (helper.supported_isas() if native.build_info().get("native") else [])[:-1])
def test_these_laws_hold_on_every_instruction_set(isa):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    command += ["-k", "not every_instruction"]
    done = subprocess.run(command, env=os.environ | {"EQUIFAST_CPU_CAPABILITY": isa}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
