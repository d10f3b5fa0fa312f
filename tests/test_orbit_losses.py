"""orbit_losses: the ops that it joins, values and gradients, and what it refuses."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equifast import losses, orbit_losses, orbit_scores, reference

from .cases import DTYPES, GROUPS, KINDS, assert_near, assert_same, ids, rand
from .score_cases import SPOILS, check_a_vector_that_is_not_finite

SIMILARITIES = ["cosine", "dot"]


def inputs(group, batch, d, dtype=torch.float32):
    return rand(group.order * batch, d, dtype=dtype) / d**0.5, rand(d, dtype=dtype, seed=1)


@given(
    group=st.sampled_from(GROUPS),
    batch=st.sampled_from([1, 2, 17]),
    d=st.sampled_from([1, 2, 17, 33, 128]),
    dtype=st.sampled_from(DTYPES),
    betas=st.sampled_from([(1.0, None), (0.3, 7.0), (-2.0, 0.0)]),
    similarity=st.sampled_from(SIMILARITIES),
    normalize=st.booleans(),
    targeted=st.booleans(),
)
@settings(max_examples=120)
def test_orbit_losses_are_the_reference(group, batch, d, dtype, betas, similarity, normalize, targeted):
    vectors, r = inputs(group, batch, d, dtype)
    options = {"group": group, "beta": betas[0], "prior_beta": betas[1], "similarity": similarity}
    options |= {"normalize": normalize, "target": ids(group, batch) if targeted else None}
    out, expected = orbit_losses(vectors, r, **options), reference.orbit_losses(vectors, r, **options)
    for name in ("activations", "probabilities", "prior", "contrastive"):
        actual = getattr(out, name)
        assert actual.dtype == dtype and actual.shape == getattr(expected, name).shape
        assert_near(actual, getattr(expected, name), scale=8 if name == "prior" else 1)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_orbit_losses_are_the_ops_that_they_join(group, similarity):
    vectors, r = inputs(group, 5, 9)
    target = ids(group, 5)
    out = orbit_losses(
        vectors, r, group=group, target=target, beta=3.0, prior_beta=2.0, similarity=similarity, normalize=True
    )
    scores = orbit_scores(vectors, r, group=group, beta=3.0, similarity=similarity)
    for actual, expected in zip(out[:3], scores, strict=True):
        assert_near(actual, expected)
    assert_near(out.prior, losses.prior_loss(scores.activations, target, beta=2.0))
    assert_near(out.contrastive, losses.contrastive_loss(vectors, group=group, normalize=True))


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("which", [(0, 1, 3, 4), (0,), (1,), (3,), (4,), (3, 4)], ids=str)
def test_gradients(which, normalize, similarity):
    group = GROUPS[4]
    vectors, r = (t.requires_grad_() for t in inputs(group, 3, 7, torch.float64))
    options = {"group": group, "target": ids(group, 3), "beta": 1.7, "prior_beta": 0.6}
    options |= {"similarity": similarity, "normalize": normalize}

    def chosen(library, v, q):
        out = library(v, q, **options)
        return tuple(out[i] for i in which)

    assert torch.autograd.gradcheck(lambda v, q: chosen(orbit_losses, v, q), (vectors, r))
    grads = [rand(*t.shape, dtype=t.dtype, seed=i) for i, t in enumerate(chosen(orbit_losses, vectors, r))]
    for actual, expected in zip(
        *(
            torch.autograd.grad(chosen(f, vectors, r), (vectors, r), grads, materialize_grads=True)
            for f in (orbit_losses, reference.orbit_losses)
        ),
        strict=True,
    ):
        assert_near(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_of_every_dtype(dtype):
    group = GROUPS[7]
    leaves = [t.requires_grad_() for t in inputs(group, 3, 20, dtype)]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    for library, mine in ((orbit_losses, leaves), (reference.orbit_losses, wide)):
        out = library(*mine, group=group, prior_beta=2.0, normalize=True)
        (out.prior + out.contrastive + out.probabilities.square().sum()).backward()
    for actual, expected in zip(leaves, wide, strict=True):
        assert actual.grad.dtype == dtype
        assert_near(actual.grad, expected.grad, scale=4)


def test_gradients_flow_where_they_are_asked_for():
    vectors, r = inputs(GROUPS[3], 2, 5)
    out = orbit_losses(vectors.requires_grad_(), r, group="C4")
    assert not out.element.requires_grad
    out.prior.backward()
    assert vectors.grad.abs().sum() > 0 and r.grad is None
    out = orbit_losses(vectors, r, group="C4", normalize=True)
    (grad,) = torch.autograd.grad(out.contrastive + out.prior, vectors, create_graph=True)
    with pytest.raises(RuntimeError, match="orbit_losses: double backward is not supported"):
        grad.sum().backward()


def test_no_samples():
    vectors, r = torch.empty(0, 5, requires_grad=True), rand(5).requires_grad_()
    out = orbit_losses(vectors, r, group="D4", target=torch.empty(0, dtype=torch.int64))
    assert out.activations.shape == out.probabilities.shape == (0, 8) and out.element.shape == (0,)
    assert out.prior.isnan() and out.contrastive.isnan()
    (out.prior + out.contrastive).backward()
    assert vectors.grad.shape == (0, 5)
    assert_same(r.grad, torch.zeros(5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("how", "cosine"), SPOILS)
def test_a_vector_that_is_not_finite(how, cosine, dtype):
    def call(op, *args):
        out = getattr(torch.ops.equifast, op)(*args)
        return out if isinstance(out, tuple) else (out,)

    for e, normalize in itertools.product((0, 4), (False, True)):
        check_a_vector_that_is_not_finite(call, how, cosine, dtype, e, normalize)


def test_any_layout():
    vectors, r = inputs(GROUPS[7], 5, 6)
    expected = orbit_losses(vectors, r, group="C8", target=ids("C8", 5))
    target = torch.stack((ids("C8", 5), torch.zeros(5, dtype=torch.int64)), 1)[:, 0]
    for laid in (vectors.t().contiguous().t(), torch.stack((vectors, -vectors), -1)[..., 0]):
        for actual, same in zip(orbit_losses(laid, r, group="C8", target=target), expected, strict=True):
            assert_same(actual, same)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"vectors": [1.0]}, TypeError, "vectors: expected a Tensor, got list"),
        ({"vectors": torch.zeros(8)}, ValueError, r"vectors: expected \(E·B, d\), got \(8,\)"),
        ({"vectors": torch.zeros(8, 3).long()}, TypeError, "vectors: .*int64"),
        ({"vectors": torch.zeros(9, 3)}, ValueError, "vectors: expected E·B rows with E = 4"),
        ({"reference": None}, TypeError, "reference: expected a Tensor"),
        ({"reference": torch.zeros(4)}, ValueError, r"reference: expected \(3,\), got \(4,\)"),
        ({"reference": torch.zeros(3).double()}, TypeError, "reference: .*float64"),
        ({"reference": torch.zeros(3, device="meta")}, ValueError, "reference: expected the device"),
        ({"target": torch.zeros(3).long()}, ValueError, r"target: expected \(2,\), got \(3,\)"),
        ({"target": torch.zeros(2)}, TypeError, "target: expected int64 ids"),
        ({"target": torch.tensor([0, 4])}, ValueError, r"target: expected ids in \[0, 4\), got 4"),
        ({"similarity": "angle"}, ValueError, "similarity: expected one of cosine, dot"),
        ({"beta": torch.ones(())}, TypeError, "beta: expected a number"),
        ({"prior_beta": torch.ones(())}, TypeError, "prior_beta: expected a number"),
        ({"group": "Q4"}, ValueError, "group"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_what_is_wrong_is_named(change, error, message):
    arguments = {"vectors": torch.zeros(8, 3), "reference": torch.zeros(3), "group": "C4"} | change
    with pytest.raises(error, match=message):
        orbit_losses(arguments.pop("vectors"), arguments.pop("reference"), **arguments)


def test_autocast_runs_in_float32():
    vectors, r = rand(4 * 3, 6).bfloat16(), rand(6, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        out = orbit_losses(vectors, r, group="C4")
    for actual, expected in zip(out, orbit_losses(vectors.float(), r, group="C4"), strict=True):
        assert_same(actual, expected)


def test_compiles_whole():
    def step(v, q):
        out = orbit_losses(v, q, group="D4", target=target, prior_beta=2.0, normalize=True)
        return out.prior + 0.1 * out.contrastive + (out.probabilities * out.activations).sum()

    target = ids("D4", 3)
    leaves = [rand(8 * 3, 6).requires_grad_(), rand(6, seed=1).requires_grad_()]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(step(*leaves), leaves)
    for actual, same in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        assert_near(actual, same)
