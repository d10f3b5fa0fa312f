"""Scores and losses as CUDA kernels, emulated, against what they say they equal."""

import sys

import pytest
import torch

from equifast import reference

from ..cases import DTYPES, assert_same, rand
from ..score_cases import ORDERS, SPOILS, assert_all_near, check_a_vector_that_is_not_finite, sweep, untie
from .emulated import call

pytestmark = pytest.mark.usefixtures("emulated")

SCORES, CONTRASTIVE = (sys.modules[f"equifast.ops.{name}"] for name in ("orbit_scores", "contrastive_loss"))
orders = pytest.mark.parametrize(
    "order", [pytest.param(e, marks=[pytest.mark.sanitized] * (e in (1, 5, 64))) for e in ORDERS]
)


@orders
def test_orbit_scores(order):
    for turn, vectors, r, cosine, name in sweep(order, 0):
        args = vectors, r, order, 1.7, cosine
        out, expected = call("orbit_scores", *args), SCORES._eager(*args)
        assert_all_near(untie(out, expected), expected, name)
        shape = expected[1].shape
        grads = rand(*shape, dtype=r.dtype, seed=2), rand(*shape[::-1], dtype=r.dtype, seed=3).t()
        pair = (grads, (grads[0], None), (None, grads[1]))[turn % 3]
        args = *pair, vectors, r, expected[1], 1.7, cosine
        assert_all_near(call("orbit_scores_backward", *args), SCORES._backward_eager(*args), name)


@orders
def test_contrastive_loss(order):
    for _, vectors, _, normalize, name in sweep(order, 1):
        expected = CONTRASTIVE._eager(vectors, order, normalize)
        assert_all_near(call("contrastive_loss", vectors, order, normalize), expected, name)
        # Of any Gram matrix: that of these vectors has signs which rounding decides.
        gram = rand(*expected[1].shape, dtype=expected[1].dtype, seed=2)
        args = rand(dtype=vectors.dtype, seed=3), vectors, gram, normalize
        assert_all_near(call("contrastive_loss_backward", *args), [CONTRASTIVE._backward_eager(*args)], name)


@orders
def test_orbit_losses(order):
    for turn, vectors, r, normalize, name in sweep(order, 2):
        cosine, batch = turn % 5 > 1, len(vectors) // order
        target = None if turn % 3 == 0 else torch.arange(2 * batch)[::2] % order
        out = call("orbit_losses", vectors, r, target, order, 1.7, 0.6, cosine, normalize)
        leaves = vectors.detach().requires_grad_(), r.detach().requires_grad_()
        options = {"beta": 1.7, "prior_beta": 0.6, "similarity": "cosine" if cosine else "dot", "normalize": normalize}
        expected = reference.orbit_losses(*leaves, group=f"C{order}", target=target, **options)
        assert_all_near(untie(out[:5], expected), [t.detach() for t in expected], name)
        assert_same(out[5], call("contrastive_loss", vectors, order, normalize)[1])
        if not batch:
            continue
        which = ((0, 1, 3, 4), (3, 4), (3,), (4,), (0, 4))[turn % 5]
        grads = {j: rand(*expected[j].shape, dtype=r.dtype, seed=j) for j in which}
        wanted = torch.autograd.grad([expected[j] for j in which], leaves, list(grads.values()), materialize_grads=True)
        given = [grads.get(j) for j in (0, 1, 3, 4)]
        args = *given, vectors, r, target, *out[:2], out[5], 1.7, 0.6, cosine, normalize
        assert_all_near(call("orbit_losses_backward", *args), wanted, name)


@pytest.mark.parametrize("order", [65, 100])
def test_large_groups(order):
    vectors, r = rand(order * 2, 20), rand(20, seed=1)
    args = vectors, r, order, 1.7, True
    expected = SCORES._eager(*args)
    out = call("orbit_scores", *args)
    assert_all_near(untie(out, expected), expected, "scores")
    args = rand(2, order, seed=2), rand(2, order, seed=3), vectors, r, out[1], 1.7, True
    assert_all_near(call("orbit_scores_backward", *args), SCORES._backward_eager(*args), "backward")
    args = vectors[:order], order, True
    loss, gram = CONTRASTIVE._eager(*args)
    assert_all_near(call("contrastive_loss", *args), (loss, gram), "loss")
    args = loss, vectors[:order], gram, True
    assert_all_near(call("contrastive_loss_backward", *args), [CONTRASTIVE._backward_eager(*args)], "loss backward")


@pytest.mark.parametrize("cosine", [False, True])
def test_the_lowest_id_wins_a_tie(cosine):
    order = 5
    for first, dtype in enumerate((*DTYPES, torch.float32)):
        high = rand(6, dtype=dtype, seed=2)
        vectors = (-high).expand(order, 3, 6).clone()
        vectors[first:] = high
        vectors = vectors.flatten(0, 1)
        assert call("orbit_scores", vectors, high, order, 1.0, cosine)[2].tolist() == [first] * 3
        assert call("orbit_losses", vectors, high, None, order, 1.0, 1.0, cosine, False)[2].tolist() == [first] * 3


@pytest.mark.parametrize(("how", "cosine"), SPOILS)
def test_a_vector_that_is_not_finite(how, cosine):
    for dtype, e, normalize in ((torch.float32, 4, False), (torch.bfloat16, 0, True), (torch.float16, 4, True)):
        check_a_vector_that_is_not_finite(call, how, cosine, dtype, e, normalize)


def test_zero_vectors():
    for dtype, normalize in ((torch.float64, False), (torch.bfloat16, True)):
        vectors, r = rand(4 * 2, 5, dtype=dtype), rand(5, dtype=dtype, seed=1)
        vectors[2:4] = 0
        for q in (r, torch.zeros_like(r)):
            args = vectors, q, 4, 1.5, True
            out, expected = call("orbit_scores", *args), SCORES._eager(*args)
            assert_all_near(untie(out, expected), expected, "scores")
            args = rand(2, 4, dtype=dtype, seed=2), rand(2, 4, dtype=dtype, seed=3), vectors, q, out[1], 1.5, True
            assert_all_near(call("orbit_scores_backward", *args), SCORES._backward_eager(*args), "scores backward")
            losses = call("orbit_losses", vectors, q, None, 4, 1.5, 1.0, True, normalize)
            loss, gram = CONTRASTIVE._eager(vectors, 4, normalize)
            assert_all_near(losses[4:], (loss, gram), "contrastive")
            args = loss, vectors, gram, normalize
            wanted = CONTRASTIVE._backward_eager(*args)
            assert_all_near(call("contrastive_loss_backward", *args), [wanted], "contrastive backward")


def test_betas_are_float64_where_the_vectors_are():
    vectors, r = rand(4 * 3, 9, dtype=torch.float64), rand(9, dtype=torch.float64, seed=1)
    out = call("orbit_losses", vectors, r, None, 4, 0.1, 1 / 3, True, False)
    expected = reference.orbit_losses(vectors, r, group="C4", beta=0.1, prior_beta=1 / 3)
    for actual, wanted in zip(out, expected, strict=False):
        torch.testing.assert_close(actual, wanted, rtol=1e-14, atol=1e-15)


@pytest.mark.sanitized
def test_an_id_out_of_range_gives_nan():
    for wrong in (-1, 4, 2**40, -(2**40)):
        out = call("orbit_losses", rand(4 * 2, 3), rand(3), torch.tensor([0, wrong]), 4, 1.0, 1.0, True, False)
        assert out[3].isnan() and out[4].isfinite()


def test_more_samples_than_blocks_and_no_vector_at_all():
    vectors, r = rand(2 * 1030, 3, dtype=torch.float64), rand(3, dtype=torch.float64, seed=1)
    probabilities, *grads = (rand(1030, 2, dtype=torch.float64, seed=seed) for seed in range(3))
    args = *grads, vectors, r, probabilities.softmax(1), 1.0, True
    assert_all_near(call("orbit_scores_backward", *args), SCORES._backward_eager(*args), "backward")
    args = torch.empty(6, 0), torch.empty(0), 3, 1.0, True
    assert_all_near(call("orbit_scores", *args), SCORES._eager(*args), "d 0")
    assert_same(call("contrastive_loss", torch.empty(6, 0), 3, True)[0], torch.zeros(()))
