"""Estimators: what comes out, and each backward pass against a graph or a warp built independently here."""

import math

import pytest
import torch
import torch.nn.functional as F

from equifast import reference
from equifast.estimators import ESTIMATORS
from equifast.groups import as_group
from equifast.ops.angle_inner import rotation_derivative

HARD = [name for name in ESTIMATORS if name not in ("soft", "gumbel")]


def problem(group, size=(6, 6), batch=3, seed=0):
    """Images and activations in float64, and an upstream gradient."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, 2, *size, generator=generator, dtype=torch.float64)
    activations = torch.randn(batch, as_group(group).order, generator=generator, dtype=torch.float64)
    upstream = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), activations.requires_grad_(), upstream


def estimate(name, x, activations, group, beta=2.0, padding_mode="border"):
    scores = reference.select(activations, beta)
    return ESTIMATORS[name](x, scores, as_group(group), beta, padding_mode)


def members(x, group, padding_mode="border"):
    """The orbit as (B, E, C, H, W)."""
    group = as_group(group)
    orbit = reference.orbit(x, group, padding_mode=padding_mode)
    return orbit.unflatten(0, (group.order, x.shape[0])).transpose(0, 1)


def expectation(x, activations, group, beta=2.0, padding_mode="border"):
    """The image `soft` stands for, written out."""
    p = (beta * activations).softmax(1)
    return (p[:, :, None, None, None] * members(x, group, padding_mode)).sum(1)


@pytest.mark.parametrize("group", ["C1", "C4", "D4", "C8", "D3"])
@pytest.mark.parametrize("size", [(6, 6), (5, 5), (4, 7)])
@pytest.mark.parametrize("name", HARD)
def test_hard_estimators_return_the_orbit_member_itself(name, size, group):
    x, activations, _ = problem(group, size)
    image, element = estimate(name, x, activations, group)
    assert torch.equal(element, activations.argmax(1))
    assert torch.equal(image, members(x, group)[torch.arange(3), element])


@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
@pytest.mark.parametrize("group", ["C4", "D4", "C8", "D6"])
def test_straight_through_differentiates_the_expectation(group, padding_mode):
    x, activations, upstream = problem(group)
    image, _ = estimate("straight_through", x, activations, group, padding_mode=padding_mode)
    blend = expectation(x, activations, group, padding_mode=padding_mode)
    got = torch.autograd.grad(image, (x, activations), upstream)
    for ours, theirs in zip(got, torch.autograd.grad(blend, (x, activations), upstream), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_straight_through_twice_is_the_second_derivative_of_the_expectation():
    results = []
    for build in (lambda *a: estimate("straight_through", *a)[0], expectation):
        x, activations, upstream = problem("D4")
        upstream.requires_grad_()
        first = torch.autograd.grad(build(x, activations, "D4"), (x, activations), upstream, create_graph=True)
        second = sum(g.square().sum() for g in first)
        results.append(torch.autograd.grad(second, (x, activations, upstream)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("wanted", [0, 1])
def test_straight_through_for_one_of_its_inputs_alone(wanted):
    x, activations, upstream = problem("C8")
    full = torch.autograd.grad(estimate("straight_through", x, activations, "C8")[0], (x, activations), upstream)
    inputs = [x.detach(), activations.detach()]
    inputs[wanted].requires_grad_()
    (alone,) = torch.autograd.grad(estimate("straight_through", *inputs, "C8")[0], inputs[wanted], upstream)
    torch.testing.assert_close(alone, full[wanted])


@pytest.mark.parametrize("group", ["D4", "C8"])
def test_soft_is_the_expectation_and_its_gradient(group):
    x, activations, _ = problem(group, (4, 4), batch=2)
    image, element = estimate("soft", x, activations, group)
    torch.testing.assert_close(image, expectation(x, activations, group))
    assert torch.equal(element, activations.argmax(1))
    assert torch.autograd.gradcheck(lambda a, b: estimate("soft", a, b, group)[0], (x, activations), fast_mode=True)


def test_none_passes_gradients_to_the_images_alone():
    x, activations, upstream = problem("D8", (5, 5))
    image, element = estimate("none", x, activations, "D8")
    chosen = members(x, "D8")[torch.arange(3), element]
    dx, da = torch.autograd.grad(image, (x, activations), upstream, allow_unused=True)
    torch.testing.assert_close(dx, torch.autograd.grad(chosen, x, upstream)[0])
    assert da is None


def test_gumbel_samples_the_softmax():
    x = torch.zeros(4000, 1, 2, 2)
    row = torch.tensor([0.5, -0.3, 0.1, 0.9])
    torch.manual_seed(3)
    _, element = estimate("gumbel", x, row.expand(4000, 4), "C4", beta=2.0)
    share = torch.bincount(element, minlength=4) / 4000
    torch.testing.assert_close(share, (2.0 * row).softmax(0), rtol=0, atol=0.03)


def test_gumbel_is_straight_through_by_its_noisy_scores():
    x, activations, upstream = problem("D4")
    torch.manual_seed(5)
    image, element = estimate("gumbel", x, activations, "D4")
    torch.manual_seed(5)
    noise = -torch.empty_like(activations).exponential_().log()
    noisy = 2.0 * activations + noise
    assert torch.equal(element, noisy.argmax(1))
    assert torch.equal(image, members(x, "D4")[torch.arange(3), element])
    got = torch.autograd.grad(image, (x, activations), upstream)
    expected = torch.autograd.grad(expectation(x, noisy, "D4", beta=1.0), (x, activations), upstream)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def warp(x, theta, padding_mode):
    """R(−θ)x by `grid_sample`, for one angle a sample: what `angle` differentiates, written independently."""
    height, width = x.shape[-2:]
    c, s, zero = theta.cos(), theta.sin(), torch.zeros_like(theta)
    ratio = (height - 1) / (width - 1)
    matrix = torch.stack((c, s * ratio, zero, -s / ratio, c, zero), 1).unflatten(1, (2, 3))
    grid = F.affine_grid(matrix, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, padding_mode=padding_mode, align_corners=True)


@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
@pytest.mark.parametrize("size", [(6, 6), (7, 7), (5, 8)])
@pytest.mark.parametrize("group", ["C4", "C8", "D5"])
def test_rotation_derivative_is_the_central_difference_of_the_warp(group, size, padding_mode):
    group = as_group(group)
    x = problem("C4", size, batch=group.n)[0].detach()
    turns = torch.arange(group.n)
    theta, h = turns.double() * (2 * math.pi / group.n), 1e-7
    # A central difference straddles the kink where a sample falls on a pixel, and so averages both slopes.
    expected = (warp(x, theta + h, padding_mode) - warp(x, theta - h, padding_mode)) / (2 * h)
    got = rotation_derivative(x, turns, [group.matrix(j) for j in range(group.n)], padding_mode)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("group", ["C4", "D4", "D8"])
def test_angle_follows_one_angle_and_one_flag(group):
    x, activations, upstream = problem(group, batch=4)
    group = as_group(group)
    image, element = estimate("angle", x, activations, group)
    dx, da = torch.autograd.grad(image, (x, activations), upstream)

    p = (2.0 * activations).softmax(1)
    hard = F.one_hot(element, group.order) + p - p.detach()
    ids = torch.arange(group.order)
    theta = (hard * (ids % group.n) * (2 * math.pi / group.n)).sum(1)
    flag = (hard * (ids >= group.n)).sum(1)[:, None, None, None]

    def surrogate(angle, r):
        turned = warp(x, angle, "border")
        return ((1 - r) * turned + r * turned.flip(-1)).mul(upstream).sum((1, 2, 3))

    h = 1e-7
    by_angle = (surrogate(theta + h, flag) - surrogate(theta - h, flag)).detach() / (2 * h)
    by_flag = torch.autograd.grad(surrogate(theta.detach(), flag).sum(), flag, retain_graph=True)[0]
    (expected,) = torch.autograd.grad((by_angle * theta).sum() + (by_flag * flag).sum(), activations)
    torch.testing.assert_close(da, expected, rtol=1e-5, atol=2e-6)
    chosen = members(x, group)[torch.arange(4), element]
    torch.testing.assert_close(dx, torch.autograd.grad(chosen, x, upstream)[0])


def test_angle_differentiates_twice():
    x, activations, upstream = problem("D4", (4, 4), batch=2)

    def slopes(x, upstream):
        image = estimate("angle", x, activations, "D4")[0]
        return torch.autograd.grad(image, activations, upstream, create_graph=True)[0]

    assert torch.autograd.gradcheck(slopes, (x, upstream.requires_grad_()), fast_mode=True)


@pytest.mark.parametrize("bad", [[math.nan], [math.inf], [-math.inf] * 8], ids=str)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_sample_that_falls_back_is_the_identity_and_changes_no_other(name, bad):
    results = []
    for spoiled in (False, True):
        x, activations, upstream = problem("D4")
        if spoiled:
            with torch.no_grad():
                activations[1, 8 - len(bad) :] = torch.tensor(bad, dtype=torch.float64)
        torch.manual_seed(0)
        image, element = estimate(name, x, activations, "D4")
        wanted = [x] if name == "none" else [x, activations]
        results.append([image, element, *torch.autograd.grad(image, wanted, upstream)])
    image, element, dx, *da = results[1]
    assert torch.equal(image[1], x[1]) and element[1] == 0
    assert torch.equal(dx[1], upstream[1])
    assert not any(grad[1].any() for grad in da)
    for spoiled, clean in zip(results[1], results[0], strict=True):
        assert torch.equal(spoiled[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "none"])
def test_nothing_passes_to_the_activations_of_a_sample_that_falls_back_even_from_images_of_nan(name):
    x, activations, upstream = problem("C8")
    with torch.no_grad():
        x[1, 0, 2, 3] = activations[1, 5] = upstream[1, 1, 0, 0] = math.nan
    image, _ = estimate(name, x, activations, "C8")
    dx, da = torch.autograd.grad(image, (x, activations), upstream)
    assert not da[1].any()
    assert all(t[[0, 2]].isfinite().all() for t in (image, dx, da))


@pytest.mark.parametrize("beta", [2.0, 0.0, -1.0])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_masked_elements_are_never_chosen_and_get_no_gradient(name, beta):
    """What is left of D4 without its reflections is C4, by every estimator."""
    x, activations, upstream = problem("C4", batch=40)
    masked = F.pad(activations.detach(), (0, 4), value=-math.inf).requires_grad_()
    image, element = estimate(name, x, masked, "D4", beta)
    assert (element < 4).all()
    if name != "none":
        dx, da = torch.autograd.grad(image, (x, masked), upstream)
        assert not da[:, 4:].any()
    if name != "gumbel":
        expected, same = estimate(name, x, activations, "C4", beta)
        torch.testing.assert_close(image, expected)
        assert torch.equal(element, same)
        if name != "none":
            of_x, of_activations = torch.autograd.grad(expected, (x, activations), upstream)
            torch.testing.assert_close(dx, of_x)
            torch.testing.assert_close(da[:, :4], of_activations)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gradients_keep_the_types_of_their_inputs(name, dtype):
    x, activations, _ = problem("C4")
    x, activations = (t.detach().to(dtype).requires_grad_() for t in (x, activations))
    image, element = estimate(name, x, activations, "C4")
    assert image.dtype == dtype and element.dtype == torch.int64
    image.float().sum().backward()
    assert x.grad.dtype == dtype and x.grad.shape == x.shape
    assert name == "none" or activations.grad.dtype == dtype


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_empty_batch_passes_through(name):
    x, activations, _ = problem("D4", batch=0)
    image, element = estimate(name, x, activations, "D4")
    assert image.shape == (0, 2, 6, 6) and element.shape == (0,)
    image.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("name", ESTIMATORS)
def test_compiles_into_one_graph_with_its_backward(name):
    torch._dynamo.reset()

    def step(x, activations, upstream):
        image, element = estimate(name, x, activations, "D4")
        return (image * upstream).sum(), element

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        x, activations, upstream = problem("D4")
        torch.manual_seed(0)
        loss, element = function(x, activations, upstream)
        wanted = [x] if name == "none" else [x, activations]
        results.append([loss, element, *torch.autograd.grad(loss, wanted)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
