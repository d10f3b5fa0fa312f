"""orbit_scores: the definition, ties, and scores that are not finite."""

import math

import pytest
import torch
from hypothesis import strategies as st

from equifast import orbit_scores, reference

from ..backend import DEVICE, by_backend, over
from ..cases import DTYPES, GROUPS, TOLERANCES, assert_near, assert_same_in_any_layout, assert_same_sum, rand
from ..definitions import call, eager
from ..vectors import SPOILS, assert_all_near, orders, spoil, sweep, untie

SIMILARITIES = ["cosine", "dot"]


def orbit_of_vectors(group, batch, d, dtype=torch.float32, seed=0):
    return rand(group.order * batch, d, dtype=dtype, seed=seed)


@orders
def test_every_order_with_gradients(order):
    """The raw ops against their definitions, with one or both of the gradients that come from above."""
    for turn, vectors, r, cosine, name in sweep(order, 0):
        args = vectors, r, order, 1.7, cosine
        out, expected = call("orbit_scores", *args), eager("orbit_scores", *args)
        assert_all_near(untie(out, expected), expected, name)
        shape = expected[1].shape
        grads = rand(*shape, dtype=r.dtype, seed=2), rand(*shape[::-1], dtype=r.dtype, seed=3).t()
        pair = (grads, (grads[0], None), (None, grads[1]))[turn % 3]
        args = *pair, vectors, r, expected[1], 1.7, cosine
        assert_all_near(call("orbit_scores_backward", *args), eager("orbit_scores_backward", *args), name)


@pytest.mark.parametrize("order", [65, 100])
def test_large_groups(order):
    vectors, r = rand(order * 2, 20), rand(20, seed=1)
    args = vectors, r, order, 1.7, True
    out, expected = call("orbit_scores", *args), eager("orbit_scores", *args)
    assert_all_near(untie(out, expected), expected, "scores")
    args = rand(2, order, seed=2), rand(2, order, seed=3), vectors, r, out[1], 1.7, True
    assert_all_near(call("orbit_scores_backward", *args), eager("orbit_scores_backward", *args), "backward")


@over(
    250,
    [
        (GROUPS[i], (0, 1, 2, 15)[i % 4], (1, 2, 15, 33)[i % 3], DTYPES[i % 4], -2.0, SIMILARITIES[i % 2])
        for i in (3, 6, 13)
    ],
    group=st.sampled_from(GROUPS),
    batch=st.sampled_from([0, 1, 2, 15, 16, 17, 40]),
    d=st.sampled_from([1, 2, 15, 16, 17, 33, 128]),
    dtype=st.sampled_from(DTYPES),
    beta=st.sampled_from([0.0, 0.3, 1.0, 7.0, -2.0]),
    similarity=st.sampled_from(SIMILARITIES),
)
def test_orbit_scores_are_the_reference(group, batch, d, dtype, beta, similarity):
    vectors, r = orbit_of_vectors(group, batch, d, dtype), rand(d, dtype=dtype, seed=1)
    options = {"group": group, "beta": beta, "similarity": similarity}
    out, expected = orbit_scores(vectors, r, **options), reference.orbit_scores(vectors, r, **options)
    assert_near(out.activations, expected.activations)
    assert_near(out.probabilities, expected.probabilities)
    assert out.element.dtype == torch.int64
    # Where the two disagree about the arg max, the choices tie within rounding.
    wide = reference.orbit_scores(vectors.double(), r.double(), **options).activations
    chosen = wide.gather(1, out.element[:, None]).squeeze(1)
    rounding = 1e-12 if dtype == torch.float64 else 1e-4
    assert (chosen >= wide.amax(1) - rounding).all() if batch else out.element.shape == (0,)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("group", by_backend(GROUPS, GROUPS[3:4]), ids=str)
def test_probabilities_are_a_softmax_whatever_the_scale(group, similarity):
    vectors, r = orbit_of_vectors(group, 5, 8), rand(8, seed=1)
    for scale in (1e-4, 1.0, 1e4):
        out = orbit_scores(scale * vectors, r, group=group, beta=3.0, similarity=similarity)
        assert_near(out.probabilities.sum(1), torch.ones(5))
        assert_near(out.probabilities, (3 * out.activations.double()).softmax(1))
        assert_same_sum(out.element, out.activations.argmax(1))


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_lowest_id_wins_a_tie(dtype, similarity):
    order = 8
    for first in by_backend(range(order), (0, 1, 4, 7)):
        high = rand(6, dtype=dtype, seed=2)
        vectors = (-high).expand(order, 3, 6).clone()
        vectors[first:] = high
        out = orbit_scores(vectors.flatten(0, 1), high, group="D4", similarity=similarity)
        assert out.element.tolist() == [first] * 3


NOT_FINITE = [(GROUPS[2 + i], spoil, DTYPES[i % 4], i, 2 * i) for i, spoil in enumerate(SPOILS)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@over(
    60,
    NOT_FINITE,
    group=st.sampled_from([g for g in GROUPS if g.order > 1]),
    how=st.sampled_from(SPOILS),
    dtype=st.sampled_from(DTYPES),
    e=st.integers(0, 15),
    b=st.integers(0, 19),
)
def test_a_score_that_is_not_finite_changes_its_sample_alone(group, how, dtype, e, b):
    how, cosine = how
    e = e % group.order
    options = {"group": group, "similarity": "cosine" if cosine else "dot"}
    vectors, r = rand(group.order, 20, 5, dtype=dtype), rand(5, dtype=dtype)
    clean = orbit_scores(vectors.flatten(0, 1), r, **options)
    out = orbit_scores(spoil(vectors, r, e, b, how).flatten(0, 1), r, **options)
    others = torch.arange(20) != b
    for actual, expected in zip(out, clean, strict=True):
        assert_same_sum(actual[others], expected[others])
    assert not out.activations[b, e].isfinite()
    if out.activations[b, e] == -math.inf:
        assert out.probabilities[b, e] == 0 and out.element[b] != e
        assert_near(out.probabilities[b].sum(), torch.ones(()))
    else:
        assert out.probabilities[b].isnan().all() and out.element[b] == 0


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_sample_all_of_whose_scores_are_masked_falls_back(dtype, similarity):
    """By the cosine all scores are NaN instead."""
    vectors, r = rand(4, 2, 5, dtype=dtype), rand(5, dtype=dtype)
    vectors[:, 1] = -math.inf * r.sign()
    out = orbit_scores(vectors.flatten(0, 1), r, group="C4", similarity=similarity)
    assert out.probabilities.isnan().all(1).tolist() == [False, True] and out.element[1] == 0


def test_nothing_outside_the_group_comes_of_a_bad_reference():
    out = orbit_scores(rand(8 * 20, 5), torch.full((5,), math.nan), group="D4")
    assert out.element.tolist() == [0] * 20
    assert out.probabilities.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_zero_vectors_are_those_of_the_definition(dtype):
    vectors, r = rand(4 * 2, 5, dtype=dtype), rand(5, dtype=dtype, seed=1)
    vectors[2:4] = 0
    for q in (r, torch.zeros_like(r)):
        args = vectors, q, 4, 1.5, True
        out, expected = call("orbit_scores", *args), eager("orbit_scores", *args)
        assert_all_near(untie(out, expected), expected, "scores")
        args = rand(2, 4, dtype=dtype, seed=2), rand(2, 4, dtype=dtype, seed=3), vectors, q, out[1], 1.5, True
        assert_all_near(call("orbit_scores_backward", *args), eager("orbit_scores_backward", *args), "backward")


def test_more_samples_than_blocks_of_a_kernel_and_vectors_of_no_length():
    batch = by_backend(1030, 1030, interpreter=600)
    vectors, r = rand(2 * batch, 3, dtype=torch.float64), rand(3, dtype=torch.float64, seed=1)
    probabilities, *grads = (rand(batch, 2, dtype=torch.float64, seed=seed) for seed in range(3))
    args = *grads, vectors, r, probabilities.softmax(1), 1.0, True
    assert_all_near(call("orbit_scores_backward", *args), eager("orbit_scores_backward", *args), "backward")
    args = torch.empty(6, 0), torch.empty(0), 3, 1.0, True
    assert_all_near(call("orbit_scores", *args), eager("orbit_scores", *args), "d 0")


def test_a_zero_vector_has_cosine_zero():
    vectors = rand(4 * 2, 5)
    vectors[2:4] = 0
    out = orbit_scores(vectors, rand(5, seed=1), group="C4")
    assert_same_sum(out.activations[:, 1], torch.zeros(2))
    out = orbit_scores(vectors, torch.zeros(5), group="C4")
    assert_same_sum(out.activations, torch.zeros(2, 4))
    assert_near(out.probabilities, torch.full((2, 4), 0.25))
    assert out.element.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_vectors_are_summed_in_a_wide_type(dtype):
    vectors, r = torch.full((4 * 3, 4096), 0.25, dtype=dtype), torch.full((4096,), 0.125, dtype=dtype)
    out = orbit_scores(vectors, r, group="C4", similarity="dot")
    assert_near(out.activations, torch.full((3, 4), 128.0))
    out = orbit_scores(16 * vectors, 16 * r, group="C4")
    torch.testing.assert_close(out.activations, torch.ones(3, 4, dtype=dtype), **TOLERANCES[dtype])


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_any_layout(similarity):
    for dtype in DTYPES:
        vectors, r = rand(8 * 5, 6, dtype=dtype), rand(6, dtype=dtype, seed=1)
        options = {"group": "D4", "similarity": similarity}
        expected = orbit_scores(vectors, r, **options)
        strided = torch.stack((vectors, -vectors), -1)[..., 0]
        turned = vectors.t().contiguous().t()
        for laid in (strided, turned):
            for actual, same in zip(orbit_scores(laid, torch.stack((r, r), 1)[:, 1], **options), expected, strict=True):
                assert_same_in_any_layout(actual, same)
        one = vectors[:1].expand_as(vectors)
        for actual, same in zip(
            orbit_scores(one, r[:1].expand(6), **options),
            orbit_scores(one.clone(), r[:1].expand(6).clone(), **options),
            strict=True,
        ):
            assert_same_in_any_layout(actual, same)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_sample_depends_on_no_other_sample(similarity):
    vectors, r = rand(8, 40, 19), rand(19, seed=1)
    together = orbit_scores(vectors.flatten(0, 1), r, group="D4", similarity=similarity)
    for b in (0, 15, 16, 39):
        alone = orbit_scores(vectors[:, b], r, group="D4", similarity=similarity)
        for actual, expected in zip(alone, together, strict=True):
            assert_same_sum(actual, expected[b : b + 1])


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_permuting_the_orbit_permutes_the_scores(similarity):
    group = next(g for g in GROUPS if g.name == "D5")
    vectors, r = rand(group.order, 3, 7), rand(7, seed=1)
    before = orbit_scores(vectors.flatten(0, 1), r, group=group, similarity=similarity)
    for h in range(group.order):
        order = [group.compose(group.inverse(h), e) for e in range(group.order)]
        after = orbit_scores(vectors[order].flatten(0, 1), r, group=group, similarity=similarity)
        assert_same_sum(after.activations, before.activations[:, order])
        assert_near(after.probabilities, before.probabilities[:, order])
        # The orbit of h·x prefers h times what the orbit of x prefers.
        assert after.element.tolist() == [group.compose(h, e) for e in before.element.tolist()]


def test_autocast_runs_in_float32():
    vectors, r = rand(4 * 3, 6).bfloat16(), rand(6, seed=1)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        out = orbit_scores(vectors, r, group="C4")
    assert out.activations.dtype == out.probabilities.dtype == torch.float32
    for actual, expected in zip(out, orbit_scores(vectors.float(), r, group="C4"), strict=True):
        assert_same_sum(actual, expected)
