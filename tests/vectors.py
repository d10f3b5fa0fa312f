"""Vectors for the tests of scores and losses, and how near the results have to be."""

import itertools
import math

import pytest
import torch

from equifast import reference

from .cases import DTYPES, TOLERANCES, amid_nan, rand
from .definitions import call

ORDERS = (1, 2, 3, 5, 8, 16, 64)
#: d and B: programs cost milliseconds where they are interpreted, so every one of both, but not every pair.
SHAPES = ((1, 3), (5, 0), (31, 1), (128, 3), (300, 1), (31, 17))

#: A parameter for the orders of groups; some of them are small enough for sanitizers.
orders = pytest.mark.parametrize(
    "order", [pytest.param(e, marks=[pytest.mark.sanitized] * (e in (1, 5, 64))) for e in ORDERS]
)

LAYOUTS = {
    "contiguous": lambda v: v,
    "transposed": lambda v: v.t().contiguous().t(),
    "every_other": lambda v: torch.stack((v, -v), -1).flatten(-2)[..., ::2],
    "cut": lambda v: amid_nan(torch.cat((v, v), 1), 61)[:, : v.shape[1]],
}


def sweep(order, first):
    """Every shape, and all dtypes, layouts and flags by turns: (turn, vectors, reference, flag, name)."""
    kinds = list(itertools.product(LAYOUTS.items(), DTYPES, (False, True)))
    turn = len(SHAPES) * ORDERS.index(order) + first
    for d, batch in SHAPES if order < 64 else ((5, 0), (100, 2)):
        batch = min(batch, 17 if order < 8 else 5)
        (layout, lay), dtype, flag = kinds[turn * 7 % len(kinds)]
        vectors = lay(rand(order * batch, d, dtype=dtype) / d**0.25)
        r = torch.stack((rand(d, dtype=dtype, seed=1), torch.zeros(d, dtype=dtype)), -1)[:, 0]
        yield turn, vectors, r, flag, f"E {order}, B {batch}, d {d}, {dtype}, {layout}, {flag}"
        turn += 1


def assert_all_near(actual, expected, name, scale=4.0):
    """Relative to the largest finite number of each tensor."""
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert (a.shape, a.dtype) == (e.shape, e.dtype), f"{name}, output {i}"
        largest = max((e[e.isfinite()].abs().max().item() if e.isfinite().any() else 0), 1)
        atol = scale * largest * TOLERANCES[a.dtype]["atol"] if a.is_floating_point() else 0
        torch.testing.assert_close(
            a, e, rtol=0, atol=atol, equal_nan=True, msg=lambda m, i=i: f"{name}, output {i}: {m}"
        )


def untie(out, expected):
    """The choices, with those of ours that tie with the expected ones within rounding taken for the same."""
    a, e = expected[0].double(), expected[2]
    near = a.gather(1, out[2][:, None]) >= a.amax(1, keepdim=True) - 4 * torch.finfo(expected[0].dtype).eps
    return (*out[:2], torch.where(near.squeeze(1), e, out[2]), *out[3:]) if len(e) else out


#: What is wrong with a vector, and whether its score is a cosine. The score is NaN, +∞ or −∞, or so large a number.
SPOILS = [(how, cosine) for how in (math.nan, math.inf, -math.inf) for cosine in (False, True)]
SPOILS += [("max", False), ("-max", False)]


def spoil(vectors, r, e, b, how):
    """``vectors (E, B, d)`` with one that is not finite, or too large for its score to be."""
    wrong = {"max": torch.finfo(r.dtype).max, "-max": torch.finfo(r.dtype).min}.get(how, how)
    vectors = vectors.clone()
    vectors[e, b] = r.sign() * wrong
    return vectors


def check_a_vector_that_is_not_finite(how, cosine, dtype, e, normalize=False):
    """Scores, losses and gradients with one such vector among others.

    They are those of the reference, even if the upstream gradient of the sample is NaN; the gradients are finite, and 0
    for all of a sample that fell back.
    """
    order, batch, b = 5, 4, 2
    vectors, r = rand(order, batch, 7, dtype=dtype), rand(7, dtype=dtype, seed=1)
    vectors = spoil(vectors, r, e, b, how).flatten(0, 1)
    options = {"beta": 1.7, "prior_beta": 0.6, "similarity": "cosine" if cosine else "dot", "normalize": normalize}
    leaves = vectors.clone().requires_grad_(), r.clone().requires_grad_()
    expected = reference.orbit_losses(*leaves, group=f"C{order}", **options)
    wanted = [t.detach() for t in expected]
    out = call("orbit_losses", vectors, r, None, order, 1.7, 0.6, cosine, normalize)
    scores = call("orbit_scores", vectors, r, order, 1.7, cosine)
    about = f"{how}, {'cosine' if cosine else 'dot'}, {dtype}"
    assert_all_near(out[:4], wanted[:4], about)
    assert_all_near(scores, wanted[:3], about)
    fell_back = wanted[1].isnan().all(1)
    assert torch.equal(fell_back, wanted[1].isnan().any(1)) and not wanted[2][fell_back].any()

    upstream = [rand(*t.shape, dtype=dtype, seed=i) for i, t in enumerate(wanted)]
    for grad in upstream[:2]:
        grad[fell_back] = math.nan
    finite = isinstance(how, float)  # else the contrastive loss has gradients as large as the vector
    which = (0, 1, 3, 4) if finite else (0, 1, 3)
    given = [upstream[i] if i in which else None for i in (0, 1, 3, 4)]
    saved = vectors, r, None, *out[:2], out[5], 1.7, 0.6, cosine, normalize
    grads = call("orbit_losses_backward", *given, *saved)
    theirs = torch.autograd.grad([expected[i] for i in which], leaves, [upstream[i] for i in which], retain_graph=True)
    assert_all_near(grads, theirs, f"{about}: losses")
    assert all(grad.isfinite().all() for grad in grads), about

    grads = call("orbit_scores_backward", *upstream[:2], vectors, r, scores[1], 1.7, cosine)
    assert_all_near(grads, torch.autograd.grad(expected[:2], leaves, upstream[:2], retain_graph=True), about)
    rows = grads[0].unflatten(0, (order, batch))
    assert not rows[:, fell_back].any()
    if finite:
        assert not rows[e, b].any()
        ours = call("contrastive_loss_backward", upstream[4], vectors, out[5], normalize)
        (alone,) = torch.autograd.grad(expected[4], leaves[0], upstream[4])
        assert_all_near(ours, [alone], f"{about}: contrastive")
        assert not ours[0].unflatten(0, (order, batch))[e, b].any() and ours[0].isfinite().all()
