"""Forward mode and `torch.func`: derivatives are those of the reference, and never absent without a word."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck

from equifast import ops, reference

from ..cases import GROUPS, KINDS, assert_near_overall, differentiable, rand


def jvp(function, library, leaves):
    tangents = [rand(*leaf.shape, dtype=leaf.dtype, seed=5 + i) for i, leaf in enumerate(leaves)]
    out, tangent = torch.func.jvp(lambda *leaves: function(library, *leaves), tuple(leaves), tuple(tangents))
    return (out, tangent) if isinstance(out, tuple) else ((out,), (tangent,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_tangents_are_those_of_the_reference(group, dtype):
    for name, function, leaves in differentiable(group, (6, 6), dtype):
        (ours, tangents), (theirs, expected) = (jvp(function, library, leaves) for library in (ops, reference))
        for a, b in zip((*ours, *tangents), (*theirs, *expected), strict=True):
            assert_near_overall(a, b, 2, name)


@pytest.mark.parametrize("group", KINDS, ids=str)
def test_gradcheck_in_forward_mode(group):
    """Finite differences agree with forward mode, and with batches of tangents."""
    for name, function, leaves in differentiable(group, (4, 4), torch.float64, batch=1):
        leaves = [leaf.requires_grad_() for leaf in leaves]
        options = {"check_forward_ad": True, "check_backward_ad": False, "check_undefined_grad": False}
        assert gradcheck(lambda *leaves, f=function: f(ops, *leaves), leaves, fast_mode=True, **options), name


@pytest.mark.parametrize("name", ["C4", "C8", "D3"])
def test_forward_over_reverse_is_the_hessian_product_of_the_reference(name):
    group = next(g for g in GROUPS if g.name == name)
    for label, function, leaves in differentiable(group, (6, 6), torch.float64):

        def gradient(library, x, f=function, rest=tuple(leaves[1:])):
            def loss(x):
                out = f(library, x, *rest)
                return sum(o.square().sum() for o in (out if isinstance(out, tuple) else (out,)))

            return torch.func.grad(loss)(x)

        ((_,), (ours,)), ((_,), (theirs,)) = (jvp(gradient, library, leaves[:1]) for library in (ops, reference))
        assert_near_overall(ours, theirs, 4, label)


@pytest.mark.parametrize("name", ["C4", "C8"])
def test_an_argument_without_a_tangent_beside_one_that_has_it(name):
    group = next(g for g in GROUPS if g.name == name)
    for label, function, leaves in differentiable(group, (6, 6), torch.float64):
        for i, leaf in enumerate(leaves):
            tangent = rand(*leaf.shape, dtype=leaf.dtype, seed=7)
            found = []
            for library in (ops, reference):
                with forward_ad.dual_level():
                    mine = [forward_ad.make_dual(t, tangent) if k == i else t for k, t in enumerate(leaves)]
                    out = function(library, *mine)
                    outs = out if isinstance(out, tuple) else (out,)
                    found.append([forward_ad.unpack_dual(o).tangent for o in outs])
            for ours, theirs in zip(*found, strict=True):
                assert (ours is None) == (theirs is None), label
                if theirs is not None:
                    assert_near_overall(ours, theirs, 2, label)


@pytest.mark.parametrize("name", ["C4", "C8", "D3"])
def test_gradients_of_each_sample_are_those_of_a_loop(name):
    group = next(g for g in GROUPS if g.name == name)
    for label, function, leaves in differentiable(group, (6, 6), torch.float64):

        def loss(*leaves, f=function):
            out = f(ops, *leaves)
            return sum(o.square().sum() for o in (out if isinstance(out, tuple) else (out,)))

        samples = [tuple(leaf * (1 + k) for leaf in leaves) for k in range(3)]
        gradient = torch.func.grad(loss, argnums=tuple(range(len(leaves))))
        batched = torch.func.vmap(gradient)(*map(torch.stack, zip(*samples, strict=True)))
        for k, sample in enumerate(samples):
            copies = [leaf.clone().requires_grad_() for leaf in sample]
            for ours, theirs in zip(batched, torch.autograd.grad(loss(*copies), copies), strict=True):
                assert_near_overall(ours[k], theirs, 4, label)
