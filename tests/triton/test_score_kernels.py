"""The Triton kernels of scores and losses in Triton's interpreter, against what they say they equal."""

import sys

import pytest
import torch

from equifast import reference

from ..cases import DTYPES, assert_near, assert_same, rand
from ..score_cases import LAYOUTS, ORDERS, SPOILS, assert_all_near, check_a_vector_that_is_not_finite, sweep, untie

triton = pytest.importorskip("triton")
if not triton.knobs.runtime.interpret:
    pytest.skip("needs TRITON_INTERPRET=1 before import", allow_module_level=True)

from equifast.kernels.contrastive_loss import contrastive_loss, contrastive_loss_backward  # noqa: E402
from equifast.kernels.orbit_linear_scores import orbit_linear_scores  # noqa: E402
from equifast.kernels.orbit_losses import orbit_losses, orbit_losses_backward  # noqa: E402
from equifast.kernels.orbit_scores import orbit_scores, orbit_scores_backward  # noqa: E402

SCORES, CONTRASTIVE = (sys.modules[f"equifast.ops.{name}"] for name in ("orbit_scores", "contrastive_loss"))


@pytest.mark.parametrize("order", ORDERS)
def test_orbit_scores(order):
    for turn, vectors, r, cosine, name in sweep(order, 0):
        out, expected = (f(vectors, r, order, 1.7, cosine) for f in (orbit_scores, SCORES._eager))
        assert_all_near(untie(out, expected), expected, name)
        shape = expected[1].shape
        grads = rand(*shape, dtype=r.dtype, seed=2), rand(*shape[::-1], dtype=r.dtype, seed=3).t()
        pair = (grads, (grads[0], None), (None, grads[1]))[turn % 3]
        args = *pair, vectors, r, expected[1], 1.7, cosine
        assert_all_near(orbit_scores_backward(*args), SCORES._backward_eager(*args), name)


@pytest.mark.parametrize("order", ORDERS)
def test_contrastive_loss(order):
    for _, vectors, _, normalize, name in sweep(order, 1):
        expected = CONTRASTIVE._eager(vectors, order, normalize)
        assert_all_near(contrastive_loss(vectors, order, normalize), expected, name)
        # Of any Gram matrix: that of these vectors has signs which rounding decides.
        gram = rand(*expected[1].shape, dtype=expected[1].dtype, seed=2)
        args = rand(dtype=vectors.dtype, seed=3), vectors, gram, normalize
        assert_all_near([contrastive_loss_backward(*args)], [CONTRASTIVE._backward_eager(*args)], name)


@pytest.mark.parametrize("order", ORDERS)
def test_orbit_losses(order):
    for turn, vectors, r, normalize, name in sweep(order, 2):
        cosine, batch = turn % 5 > 1, len(vectors) // order
        target = None if turn % 3 == 0 else torch.arange(2 * batch)[::2] % order
        out = orbit_losses(vectors, r, target, order, 1.7, 0.6, cosine, normalize)
        leaves = vectors.detach().requires_grad_(), r.detach().requires_grad_()
        options = {"beta": 1.7, "prior_beta": 0.6, "similarity": "cosine" if cosine else "dot", "normalize": normalize}
        expected = reference.orbit_losses(*leaves, group=f"C{order}", target=target, **options)
        assert_all_near(untie(out[:5], expected), [t.detach() for t in expected], name)
        assert_same(out[5], contrastive_loss(vectors, order, normalize)[1])
        if not batch:
            continue
        which = ((0, 1, 3, 4), (3, 4), (3,), (4,), (0, 4))[turn % 5]
        grads = {j: rand(*expected[j].shape, dtype=r.dtype, seed=j) for j in which}
        wanted = torch.autograd.grad([expected[j] for j in which], leaves, list(grads.values()), materialize_grads=True)
        given = [grads.get(j) for j in (0, 1, 3, 4)]
        actual = orbit_losses_backward(*given, vectors, r, target, *out[:2], out[5], 1.7, 0.6, cosine, normalize)
        assert_all_near(actual, wanted, name)


@pytest.mark.parametrize("order", ORDERS)
def test_orbit_linear_scores(order):
    for turn, features, _, cosine, name in sweep(order, 3):
        f, d = features.shape[1], (3, 16, 40, 150)[turn % 4]
        weight = LAYOUTS["transposed" if turn % 3 else "contiguous"](rand(d, f, dtype=features.dtype, seed=1) / f**0.5)
        bias = rand(2 * d, dtype=features.dtype, seed=2)[::2] if turn % 2 else None
        r = rand(d, dtype=features.dtype, seed=3)
        out = orbit_linear_scores(features, weight, bias, r, order, 1.7, cosine)
        args = (None if t is None else t.to(reference.accumulate_dtype(r.dtype)) for t in (features, weight, bias, r))
        options = {"group": f"C{order}", "beta": 1.7, "similarity": "cosine" if cosine else "dot"}
        wide = reference.orbit_linear_scores(*args, **options)
        expected = *(t.to(r.dtype) for t in wide[:2]), wide[2]
        assert_all_near(untie(out, expected), expected, name)


def test_the_reference_may_be_wider_than_the_features():
    features, weight, r = rand(4 * 3, 20).bfloat16(), rand(7, 20, seed=1).bfloat16(), rand(7, seed=2)
    out = orbit_linear_scores(features, weight, None, r, 4, 2.0, True)
    expected = reference.orbit_linear_scores(features.float(), weight.float(), None, r, group="C4", beta=2.0)
    for actual, wanted in zip(out, expected, strict=True):
        assert_near(actual, wanted)


@pytest.mark.parametrize("order", [65, 100])
def test_large_groups(order):
    vectors, r = rand(order * 2, 20), rand(20, seed=1)
    out, expected = (f(vectors, r, order, 1.7, True) for f in (orbit_scores, SCORES._eager))
    assert_all_near(out, expected, "scores")
    grads = rand(2, order, seed=2), rand(2, order, seed=3)
    args = *grads, vectors, r, out[1], 1.7, True
    assert_all_near(orbit_scores_backward(*args), SCORES._backward_eager(*args), "backward")
    one = vectors[:order]
    assert_all_near(contrastive_loss(one, order, True), CONTRASTIVE._eager(one, order, True), "loss")
    args = rand(order * 2, 9), rand(20, 9, seed=1), None, r
    wide = reference.orbit_linear_scores(*args, group=f"C{order}", beta=1.7)
    assert_all_near(orbit_linear_scores(*args, order, 1.7, True), wide, "linear")


@pytest.mark.parametrize("cosine", [False, True])
def test_the_lowest_id_wins_a_tie(cosine):
    order = 5
    for first, dtype in enumerate((*DTYPES, torch.float32)):
        high = rand(6, dtype=dtype, seed=2)
        vectors = (-high).expand(order, 3, 6).clone()
        vectors[first:] = high
        vectors = vectors.flatten(0, 1)
        assert orbit_scores(vectors, high, order, 1.0, cosine)[2].tolist() == [first] * 3
        assert orbit_losses(vectors, high, None, order, 1.0, 1.0, cosine, False)[2].tolist() == [first] * 3
        linear = orbit_linear_scores(vectors, torch.eye(6, dtype=dtype), None, high, order, 1.0, cosine)
        assert linear[2].tolist() == [first] * 3


@pytest.mark.parametrize(("how", "cosine"), SPOILS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_vector_that_is_not_finite(how, cosine):
    def call(op, *args):
        out = globals()[op](*args)
        return out if isinstance(out, tuple) else (out,)

    for dtype, e, normalize in ((torch.float32, 4, False), (torch.bfloat16, 0, True), (torch.float16, 4, True)):
        check_a_vector_that_is_not_finite(call, how, cosine, dtype, e, normalize)


def test_zero_vectors():
    for dtype, normalize in ((torch.float64, False), (torch.bfloat16, True)):
        vectors, r = rand(4 * 2, 5, dtype=dtype), rand(5, dtype=dtype, seed=1)
        vectors[2:4] = 0
        for q in (r, torch.zeros_like(r)):
            args = vectors, q, 4, 1.5, True
            out, expected = orbit_scores(*args), SCORES._eager(*args)
            assert_all_near(out, expected, "scores")
            grads = rand(2, 4, dtype=dtype, seed=2), rand(2, 4, dtype=dtype, seed=3)
            args = *grads, vectors, q, out[1], 1.5, True
            assert_all_near(orbit_scores_backward(*args), SCORES._backward_eager(*args), "scores backward")
            losses = orbit_losses(vectors, q, None, 4, 1.5, 1.0, True, normalize)
            loss, gram = CONTRASTIVE._eager(vectors, 4, normalize)
            assert_all_near(losses[4:], (loss, gram), "contrastive")
            args = loss, vectors, gram, normalize
            wanted = CONTRASTIVE._backward_eager(*args)
            assert_all_near([contrastive_loss_backward(*args)], [wanted], "contrastive backward")


def test_betas_are_float64_where_the_vectors_are():
    vectors, r = rand(4 * 3, 9, dtype=torch.float64), rand(9, dtype=torch.float64, seed=1)
    out = orbit_losses(vectors, r, None, 4, 0.1, 1 / 3, True, False)
    expected = reference.orbit_losses(vectors, r, group="C4", beta=0.1, prior_beta=1 / 3)
    for actual, wanted in zip(out, expected, strict=False):
        torch.testing.assert_close(actual, wanted, rtol=1e-14, atol=1e-15)


def test_an_id_out_of_range_gives_nan():
    for wrong in (-1, 4, 2**40):
        out = orbit_losses(rand(4 * 2, 3), rand(3), torch.tensor([0, wrong]), 4, 1.0, 1.0, True, False)
        assert out[3].isnan() and out[4].isfinite()


def test_many_blocks_and_no_vector_at_all():
    vectors, r = rand(2 * 600, 3, dtype=torch.float64), rand(3, dtype=torch.float64, seed=1)
    out = orbit_losses(vectors, r, None, 2, 1.0, 1.0, True, True)
    expected = reference.orbit_losses(vectors, r, group="C2", normalize=True)
    assert_all_near(out[:5], expected, "losses")
    assert_all_near(contrastive_loss(vectors, 2, True), CONTRASTIVE._eager(vectors, 2, True), "contrastive")
    empty = torch.empty(6, 0)
    assert_all_near(orbit_scores(empty, empty[0], 3, 1.0, True), SCORES._eager(empty, empty[0], 3, 1.0, True), "d 0")
    assert_same(contrastive_loss(empty, 3, True)[0], torch.zeros(()))
