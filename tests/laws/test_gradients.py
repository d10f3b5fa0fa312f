"""Every gradient: against autograd of the reference, and against finite differences in float64."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import equifast
from equifast import ops, reference
from equifast.representations import SIZES as REPRESENTATIONS
from equifast.representations import channel_action

from ..cases import DTYPES, GROUPS, KINDS, LAYOUTS, assert_near_overall, assert_same, differentiable, rand


def gradients(function, library, leaves, upstream=None):
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    out = function(library, *leaves)
    out = out if isinstance(out, tuple) else (out,)
    if upstream is None:
        upstream = [rand(*o.shape, dtype=o.dtype, seed=9) for o in out]
    return torch.autograd.grad(out, leaves, [u.to(o.dtype) for u, o in zip(upstream, out, strict=True)])


def assert_gradients_near(actual, expected, name, scale=1.0):
    for ours, theirs in zip(actual, expected, strict=True):
        assert_near_overall(ours, theirs, scale, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_gradients_are_those_of_the_reference(group, dtype):
    shape = (8, 8) if group.n % 2 else (7, 10)
    for name, function, leaves in differentiable(group, shape, dtype):
        ours = gradients(function, ops, leaves)
        theirs = gradients(function, reference, [leaf.double() for leaf in leaves])
        assert all(grad.dtype == dtype for grad in ours)
        # A narrow op rounds its output, which then meets the rounded probabilities in backward.
        assert_gradients_near(ours, theirs, name, scale=4 if "scores" in name else 2)


@pytest.mark.parametrize("shape", [(33, 33), (40, 17), (1, 6), (3, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_gradients_of_larger_and_of_degenerate_images(group, shape):
    for name, function, leaves in differentiable(group, shape, torch.float32, batch=3):
        if "conv" in name and min(shape) < 5 and name != "orbit_conv2d {'padding': 'same'}":
            continue
        theirs = gradients(function, reference, [leaf.double() for leaf in leaves])
        assert_gradients_near(gradients(function, ops, leaves), theirs, name)


@pytest.mark.parametrize("group", KINDS, ids=str)
def test_gradcheck(group):
    # All entries of the Jacobian where the group is small, else a random projection of it.
    shape, fast = ((3, 4), False) if group.order <= 5 else ((5, 5), True)
    for name, function, leaves in differentiable(group, shape, torch.float64, batch=1):
        leaves = [leaf.requires_grad_() for leaf in leaves]
        assert gradcheck(lambda *leaves, f=function: f(ops, *leaves), leaves, fast_mode=fast), name


@pytest.mark.parametrize("group", KINDS, ids=str)
def test_gradgradcheck_of_the_linear_ops(group):
    for name, function, leaves in differentiable(group, (4, 4), torch.float64):
        if name.partition(" ")[0] in ("crop_resize", "orbit", "act", "orbit_average"):
            leaves = [leaf.requires_grad_() for leaf in leaves]
            assert gradgradcheck(lambda *leaves, f=function: f(ops, *leaves), leaves, fast_mode=True), name


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("name", ["C4", "C5", "D3", "D4"])
def test_gradcheck_of_what_autograd_composes(name, adjoint, representation):
    """The ops that estimators and double backward reach: shared operands, weights, transposed warps."""
    group = next(g for g in GROUPS if g.name == name)
    c, batch = REPRESENTATIONS[representation](group.order), 2
    action = (
        list(group.action_table(inverse=True)),
        *map(list, channel_action(group, representation, inverse=True)),
        "zeros" if adjoint else "border",
    )
    one, other = (rand(batch, c, 3, 4, dtype=torch.float64, seed=s).requires_grad_() for s in (0, 1))
    each = rand(group.order, batch, c, 3, 4, dtype=torch.float64, seed=2).requires_grad_()
    weights = rand(batch, group.order, dtype=torch.float64, seed=3).requires_grad_()
    library = torch.ops.equifast

    for function, leaves in (
        (lambda x, w: library.orbit(x, w, *action, adjoint), (one, weights)),
        (lambda y, w: library.orbit_average(y, w, *action, adjoint), (one, weights)),
        (lambda y, w: library.orbit_average(y, w, *action, adjoint), (each, weights)),
        (lambda y: library.orbit_average(y, None, *action, adjoint), (each,)),
        (lambda u, v: library.orbit_inner(u, v, *action), (one, other)),
        (lambda u, v: library.orbit_inner(u, v, *action), (one, each)),
        (lambda u, v: library.orbit_inner(u, v, *action), (each, one)),
    ):
        assert gradcheck(function, leaves, fast_mode=True)
        assert gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        (
            "orbit_conv2d",
            lambda x: equifast.orbit_conv2d(x[:, None, None].expand(-1, 1, 4, 7), x[None, None, :3], group="C4"),
        ),
        ("orbit_scores", lambda x: equifast.orbit_scores(x, x[0], group="C4").activations),
        ("orbit_scores", lambda x: equifast.orbit_scores(x, x[0], group="C4").probabilities),
        ("orbit_logit_scores", lambda x: equifast.orbit_logit_scores(x, group="C4").activations),
        ("contrastive_loss", lambda x: ops.contrastive_loss(x, group="C4")),
    ],
)
def test_double_backward_says_why_there_is_none(name, function):
    x = rand(4, 7).requires_grad_()
    (grad,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
    message = f"{name}: double backward is not supported; use equifast.reference.{name}"
    with pytest.raises(RuntimeError, match=message):
        grad.sum().backward()
    assert callable(getattr(reference, name))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["C4", "C5", "D3"])
def test_only_what_needs_a_gradient_gets_one(name, dtype):
    group = next(g for g in GROUPS if g.name == name)
    for label, function, leaves in differentiable(group, (6, 6), dtype):
        whole = gradients(function, ops, leaves)
        for i, expected in enumerate(whole):
            mine = [leaf.detach().requires_grad_(k == i) for k, leaf in enumerate(leaves)]
            out = function(ops, *mine)
            out = out if isinstance(out, tuple) else (out,)
            upstream = [rand(*o.shape, dtype=o.dtype, seed=9) for o in out]
            torch.autograd.backward(out, upstream)
            assert [leaf.grad is not None for leaf in mine] == [k == i for k in range(len(mine))], label
            assert_gradients_near((mine[i].grad,), (expected,), label)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "every_other_column", "one_row", "one_image"])
@pytest.mark.parametrize("name", ["C4", "C8", "D3"])
def test_upstream_gradients_of_any_layout(name, layout):
    group = next(g for g in GROUPS if g.name == name)
    for label, function, leaves in differentiable(group, (6, 6), torch.float32):
        out = function(ops, *leaves)
        if not isinstance(out, torch.Tensor) or out.dim() != 4:
            continue
        upstream = LAYOUTS[layout](rand(*out.shape, seed=3))
        ours = gradients(function, ops, leaves, [upstream])
        theirs = gradients(function, ops, leaves, [upstream.clone(memory_format=torch.contiguous_format)])
        assert_gradients_near(ours, theirs, label)


@pytest.mark.parametrize("name", ["C4", "D3"])
def test_the_gradient_of_a_plain_sum(name):
    """Its upstream gradient is one number with strides of zero."""
    group = next(g for g in GROUPS if g.name == name)
    for label, function, leaves in differentiable(group, (6, 6), torch.float64):
        leaves = [leaf.requires_grad_() for leaf in leaves]
        grads = []
        for library in (ops, reference):
            out = function(library, *leaves)
            out = torch.cat([o.flatten() for o in out]) if isinstance(out, tuple) else out
            grads.append(torch.autograd.grad(out.sum(), leaves))
        assert_gradients_near(*grads, label)


@pytest.mark.parametrize("name", ["C1", "C4", "C5", "D4"])
def test_no_images(name):
    group = next(g for g in GROUPS if g.name == name)
    for label, function, leaves in differentiable(group, (6, 6), torch.float32, batch=0):
        if "contrastive" in label:
            continue  # of nothing, NaN
        for leaf, grad in zip(leaves, gradients(function, ops, leaves), strict=True):
            assert_same(grad, torch.zeros_like(leaf))


def test_the_chosen_element_has_no_gradient():
    scores = equifast.orbit_scores(rand(8, 5).requires_grad_(), rand(5), group="D4")
    assert scores.activations.requires_grad and scores.probabilities.requires_grad
    assert not scores.element.requires_grad


def test_samples_that_are_not_finite_pass_no_gradient_through_probabilities():
    """Their scores overflow: finite vectors, infinite dot products."""
    r = rand(5, dtype=torch.float64, seed=1).requires_grad_()
    vectors = rand(4, 3, 5, dtype=torch.float64)
    rows, upstream = [0, 2], rand(2, 4, dtype=torch.float64)
    clean = vectors[:, rows].flatten(0, 1).requires_grad_()
    p = equifast.orbit_scores(clean, r, group="C4", similarity="dot").probabilities
    expected = torch.autograd.grad(p, (clean, r), upstream)
    vectors[1, 1] = r.detach().sign() * 1.5e308
    broken = vectors.flatten(0, 1).requires_grad_()
    p = equifast.orbit_scores(broken, r, group="C4", similarity="dot").probabilities
    assert p.isnan().any(1).tolist() == [False, True, False]
    of_vectors, of_r = torch.autograd.grad(p, (broken, r), torch.stack((upstream[0], upstream[0], upstream[1])))
    of_vectors = of_vectors.unflatten(0, (4, 3))
    assert_gradients_near((of_vectors[:, rows].flatten(0, 1), of_r), expected, "dot")
    assert_same(of_vectors[:, 1], torch.zeros(4, 5, dtype=torch.float64))


def test_zero_vectors_have_finite_gradients():
    for function, leaves in (
        (lambda v, r: equifast.orbit_scores(v, r, group="C4").activations.sum(), (torch.zeros(8, 5), rand(5))),
        (lambda v, r: equifast.orbit_scores(v, r, group="C4").activations.sum(), (rand(8, 5), torch.zeros(5))),
        (lambda v: ops.contrastive_loss(v, group="C4"), (torch.zeros(8, 5),)),
        (lambda v: ops.contrastive_loss(v, group="C4", normalize=True), (torch.zeros(8, 5),)),
    ):
        leaves = [leaf.requires_grad_() for leaf in leaves]
        for grad in torch.autograd.grad(function(*leaves), leaves):
            assert grad.isfinite().all()
