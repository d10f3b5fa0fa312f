"""orbit_losses: the ops that it joins, values and gradients, and what it refuses."""

import itertools

import pytest
import torch
from hypothesis import strategies as st

from equifast import losses, orbit_losses, orbit_scores, reference

from ..backend import DEVICE, by_backend, only, over
from ..cases import DTYPES, GROUPS, KINDS, assert_near, assert_same_in_any_layout, assert_same_sum, ids, rand
from ..definitions import call, eager
from ..vectors import SPOILS, assert_all_near, check_a_vector_that_is_not_finite, orders, sweep, untie

SIMILARITIES = ["cosine", "dot"]


def inputs(group, batch, d, dtype=torch.float32):
    return rand(group.order * batch, d, dtype=dtype) / d**0.5, rand(d, dtype=dtype, seed=1)


@orders
def test_every_order_with_gradients(order):
    """The raw ops against autograd of the reference, with some or all of the gradients that come from above."""
    for turn, vectors, r, normalize, name in sweep(order, 2):
        cosine, batch = turn % 5 > 1, len(vectors) // order
        target = None if turn % 3 == 0 else torch.arange(2 * batch)[::2] % order
        out = call("orbit_losses", vectors, r, target, order, 1.7, 0.6, cosine, normalize)
        leaves = vectors.detach().requires_grad_(), r.detach().requires_grad_()
        options = {"beta": 1.7, "prior_beta": 0.6, "similarity": "cosine" if cosine else "dot", "normalize": normalize}
        expected = reference.orbit_losses(*leaves, group=f"C{order}", target=target, **options)
        assert_all_near(untie(out[:5], expected), [t.detach() for t in expected], name)
        assert_same_sum(out[5], call("contrastive_loss", vectors, order, normalize)[1])
        if not batch:
            continue
        which = ((0, 1, 3, 4), (3, 4), (3,), (4,), (0, 4))[turn % 5]
        grads = {j: rand(*expected[j].shape, dtype=r.dtype, seed=j) for j in which}
        wanted = torch.autograd.grad([expected[j] for j in which], leaves, list(grads.values()), materialize_grads=True)
        given = [grads.get(j) for j in (0, 1, 3, 4)]
        args = *given, vectors, r, target, *out[:2], out[5], 1.7, 0.6, cosine, normalize
        assert_all_near(call("orbit_losses_backward", *args), wanted, name)


@over(
    120,
    [
        (GROUPS[i], (1, 2, 17)[i % 3], (1, 2, 33)[i % 3], DTYPES[i % 4], (0.3, 7.0), SIMILARITIES[i % 2], i < 9, i > 5)
        for i in (3, 6, 13)
    ],
    group=st.sampled_from(GROUPS),
    batch=st.sampled_from([1, 2, 17]),
    d=st.sampled_from([1, 2, 17, 33, 128]),
    dtype=st.sampled_from(DTYPES),
    betas=st.sampled_from([(1.0, None), (0.3, 7.0), (-2.0, 0.0)]),
    similarity=st.sampled_from(SIMILARITIES),
    normalize=st.booleans(),
    targeted=st.booleans(),
)
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
@pytest.mark.parametrize("group", by_backend(KINDS, KINDS[1:3]), ids=str)
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
@pytest.mark.parametrize("which", by_backend([(0, 1, 3, 4), (0,), (1,), (3,), (4,), (3, 4)], [(3, 4)]), ids=str)
def test_gradcheck(which, normalize, similarity):
    group = GROUPS[4]
    vectors, r = (t.requires_grad_() for t in inputs(group, 3, 7, torch.float64))
    options = {"group": group, "target": ids(group, 3), "beta": 1.7, "prior_beta": 0.6}
    options |= {"similarity": similarity, "normalize": normalize}

    def chosen(library, v, q):
        out = library(v, q, **options)
        return tuple(out[i] for i in which)

    fast = by_backend(False, True)  # a random projection of the Jacobian instead of all of its entries
    assert torch.autograd.gradcheck(lambda v, q: chosen(orbit_losses, v, q), (vectors, r), fast_mode=fast)
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
    assert_same_sum(r.grad, torch.zeros(5))


#: Dtype, the element whose vector it is, and whether the contrastive loss normalizes.
WHERE = by_backend(
    list(itertools.product(DTYPES, (0, 4), (False, True))),
    [(torch.float32, 4, False), (torch.bfloat16, 0, True), (torch.float16, 4, True)],
)


@pytest.mark.parametrize(("how", "cosine"), SPOILS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_vector_that_is_not_finite(how, cosine):
    for dtype, e, normalize in WHERE:
        check_a_vector_that_is_not_finite(how, cosine, dtype, e, normalize)


@only("cpu", "interpreter", "emulation", "gpu", because="the products of torch may round equal rows differently")
@pytest.mark.parametrize("cosine", [False, True])
def test_the_lowest_id_wins_a_tie(cosine):
    order = 5
    for first, dtype in enumerate((*DTYPES, torch.float32)):
        high = rand(6, dtype=dtype, seed=2)
        vectors = (-high).expand(order, 3, 6).clone()
        vectors[first:] = high
        out = call("orbit_losses", vectors.flatten(0, 1), high, None, order, 1.0, 1.0, cosine, False)
        assert out[2].tolist() == [first] * 3


@pytest.mark.parametrize(("dtype", "normalize"), [(torch.float64, False), (torch.bfloat16, True)], ids=str)
def test_zero_vectors(dtype, normalize):
    """The contrastive term is that of the op of its own."""
    vectors, r = rand(4 * 2, 5, dtype=dtype), rand(5, dtype=dtype, seed=1)
    vectors[2:4] = 0
    for q in (r, torch.zeros_like(r)):
        out = call("orbit_losses", vectors, q, None, 4, 1.5, 1.0, True, normalize)
        assert_all_near(out[4:], eager("contrastive_loss", vectors, 4, normalize), "contrastive")


def test_betas_are_float64_where_the_vectors_are():
    vectors, r = rand(4 * 3, 9, dtype=torch.float64), rand(9, dtype=torch.float64, seed=1)
    out = call("orbit_losses", vectors, r, None, 4, 0.1, 1 / 3, True, False)
    expected = reference.orbit_losses(vectors, r, group="C4", beta=0.1, prior_beta=1 / 3)
    for actual, wanted in zip(out, expected, strict=False):
        torch.testing.assert_close(actual, wanted, rtol=1e-14, atol=1e-15)


@only("interpreter", "emulation", "gpu", because="the public function checks ids before a CPU's kernels see them")
@pytest.mark.sanitized
def test_an_id_out_of_range_gives_nan():
    for wrong in (-1, 4, 2**40, -(2**40)):
        out = call("orbit_losses", rand(4 * 2, 3), rand(3), torch.tensor([0, wrong]), 4, 1.0, 1.0, True, False)
        assert out[3].isnan() and out[4].isfinite()


def test_many_blocks_of_a_kernel():
    batch = by_backend(600, 600, emulation=100)
    vectors, r = rand(2 * batch, 3, dtype=torch.float64), rand(3, dtype=torch.float64, seed=1)
    out = call("orbit_losses", vectors, r, None, 2, 1.0, 1.0, True, True)
    assert_all_near(out[:5], reference.orbit_losses(vectors, r, group="C2", normalize=True), "losses")


def test_any_layout():
    vectors, r = inputs(GROUPS[7], 5, 6)
    expected = orbit_losses(vectors, r, group="C8", target=ids("C8", 5))
    target = torch.stack((ids("C8", 5), torch.zeros(5, dtype=torch.int64)), 1)[:, 0]
    for laid in (vectors.t().contiguous().t(), torch.stack((vectors, -vectors), -1)[..., 0]):
        for actual, same in zip(orbit_losses(laid, r, group="C8", target=target), expected, strict=True):
            assert_same_in_any_layout(actual, same)


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
    with torch.autocast(DEVICE.type, torch.bfloat16):
        out = orbit_losses(vectors, r, group="C4")
    for actual, expected in zip(out, orbit_losses(vectors.float(), r, group="C4"), strict=True):
        assert_same_sum(actual, expected)


@only("cpu", "reference", "gpu", because="a compiler is held against one backend of a processor")
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
