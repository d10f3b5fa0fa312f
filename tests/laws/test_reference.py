"""The reference itself against oracles that share nothing with it: rot90, grid_sample, loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equifast import geometry, reference
from equifast.groups import ROW
from equifast.reference import select

from ..cases import (
    DTYPES,
    GROUPS,
    KINDS,
    PADDING_MODES,
    SHAPES,
    assert_near,
    assert_same,
    exact_elements,
    ids,
    is_exact,
    rand,
)
from ..definitions import grid_sampled


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("shape", [(2, 2), (7, 7), (12, 12), (9, 14), (20, 3)])
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_orbit_is_grid_sample(group, shape, padding_mode):
    x = rand(2, 3, *shape, dtype=torch.float64)
    members = reference.orbit(x, group, padding_mode=padding_mode).view(group.order, *x.shape)
    for e in range(group.order):
        # g⁻¹·x at p is x at g·p.
        expected = grid_sampled(x, group.matrix(e), padding_mode)
        torch.testing.assert_close(members[e], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_exact_members_are_rot90_and_flip(group, shape):
    exact = exact_elements(group, shape)
    turns = math.gcd(group.n, 4 if shape[0] == shape[1] else 2)
    assert len(exact) == turns * (2 if group.reflections else 1)
    for dtype in DTYPES:
        x = rand(2, 3, *shape, dtype=dtype)
        members = reference.orbit(x, group).unflatten(0, (group.order, 2))
        for e in exact:
            j, r = group.split(e)
            expected = torch.rot90(x, -j * 4 // group.n, (2, 3))
            assert_same(members[e], expected.flip(-1) if r else expected)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (6, 1), (5, 5), (6, 4)])
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_sample_adjoint_is_the_transpose(group, shape, padding_mode):
    size = math.prod(shape)
    basis = torch.eye(size, dtype=torch.float64).view(size, *shape)
    for row in geometry.rows(group.action_table(inverse=True)):
        matrix = reference.sample(basis, row, padding_mode).reshape(size, size)
        adjoint = reference.sample_adjoint(basis, row, padding_mode).reshape(size, size)
        assert_near(adjoint, matrix.T)
        if padding_mode == "border":
            assert_near(matrix.sum(0), torch.ones(size))


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("representation", ["trivial", "regular", "vector"])
@pytest.mark.parametrize("group", KINDS, ids=str)
def test_act_is_each_sample_by_itself(group, representation, padding_mode):
    x, element = rand(7, 2 * group.order, 6, 6, dtype=torch.float64), ids(group, 7)
    out = reference.act(x, element, group=group, representation=representation, padding_mode=padding_mode)
    for b, e in enumerate(element.tolist()):
        moved = grid_sampled(x[b : b + 1], group.matrix(group.inverse(e)), padding_mode)[0]
        if representation == "regular":
            source = [group.compose(group.inverse(e), k) for k in range(group.order)]
            moved = moved.unflatten(0, (-1, group.order))[:, source].flatten(0, 1)
        if representation == "vector":
            rho = torch.tensor(group.matrix(e), dtype=torch.float64).view(2, 2)
            moved = torch.einsum("ij,cjhw->cihw", rho, moved.unflatten(0, (-1, 2))).flatten(0, 1)
        torch.testing.assert_close(out[b], moved, rtol=0, atol=1e-6)


@pytest.mark.parametrize("group", KINDS, ids=str)
def test_act_with_inverse_undoes_exact_elements_and_is_orbit(group):
    x = rand(group.order, 3, 8, 8)
    element = torch.arange(group.order)
    members = reference.orbit(x, group).unflatten(0, (group.order, group.order))
    undone = reference.act(x, element, group=group, inverse=True)
    assert_same(undone, members[element, element])
    back = reference.act(undone, element, group=group)
    for e in filter(lambda e: is_exact(group, e, (8, 8)), range(group.order)):
        assert_same(back[e], x[e])


def test_orbit_average_is_a_weighted_sum_of_acts(group=GROUPS[7]):
    y, weights = rand(group.order * 3, 2, 6, 5, dtype=torch.float64), rand(3, group.order, dtype=torch.float64)
    expected = torch.zeros(3, 2, 6, 5, dtype=torch.float64)
    for e, member in enumerate(y.view(group.order, 3, 2, 6, 5)):
        moved = reference.act(member, torch.full((3,), e), group=group)
        expected += weights[:, e, None, None, None] * moved
    assert_near(reference.orbit_average(y, weights, group=group), expected)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_orbit_scores_are_their_definition(similarity):
    vectors, r = rand(6 * 4, 5, dtype=torch.float64), rand(5, dtype=torch.float64, seed=1)
    out = reference.orbit_scores(vectors, r, group="D3", beta=2.5, similarity=similarity)
    for b in range(4):
        v = [vectors[e * 4 + b] for e in range(6)]
        a = torch.stack([u @ r / (u.norm() * r.norm() if similarity == "cosine" else 1) for u in v])
        assert_near(out.activations[b], a)
        assert_near(out.probabilities[b], (2.5 * a).exp() / (2.5 * a).exp().sum())
        assert out.element[b] == a.argmax()


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=8), st.floats(-3, 3))
def test_select_takes_the_lowest_id_of_the_maximum(row, beta):
    scores = torch.tensor([row])
    out = select(scores, beta)
    assert out.element.tolist() == [row.index(max(row))]
    assert_same(out.activations, scores)
    assert_near(out.probabilities, (beta * scores.double()).softmax(1))


@given(
    row=st.lists(st.sampled_from([-math.inf, math.inf, math.nan, 0.5]), min_size=1, max_size=8),
    beta=st.sampled_from([0.0, 1.0, -2.0, 0.7]),
)
def test_select_masks_or_falls_back_where_a_score_is_not_finite(row, beta):
    scores = torch.linspace(-1, 1, len(row), dtype=torch.float64) + torch.tensor([[0.0] * len(row), row])
    leaf = scores.clone().requires_grad_()
    out = select(leaf, beta)
    (grad,) = torch.autograd.grad(out.probabilities, leaf, torch.full_like(leaf, 2.0).tril(), materialize_grads=True)
    assert_same(out.activations.detach(), scores)
    left = [e for e, score in enumerate(row) if score != -math.inf]
    if not left or any(row[e] != 0.5 for e in left):
        assert out.element[1] == 0 and out.probabilities[1].isnan().all()
        assert not grad[1].any()
        (grad,) = torch.autograd.grad(select(leaf, beta).activations.square().sum(), leaf)
        assert not grad[1].any() and torch.equal(grad[0], 2 * scores[0])
        return
    # What is left of the group is chosen from as if it were the group.
    assert out.element[1] == max(left)
    masked = [e for e in range(len(row)) if e not in left]
    assert not out.probabilities[1, masked].any() and not grad[1, masked].any()
    rest = scores[1:, left].requires_grad_()
    expected = select(rest, beta)
    assert_near(out.probabilities[1:, left], expected.probabilities)
    upstream = torch.full_like(leaf, 2.0).tril()[1:, left]
    assert_near(grad[1:, left], torch.autograd.grad(expected.probabilities, rest, upstream)[0])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@given(how=st.sampled_from([math.nan, math.inf, "overflow"]), e=st.integers(0, 3), b=st.integers(0, 4))
@settings(max_examples=20)
def test_a_sample_that_falls_back_changes_no_gradient_of_others(similarity, normalize, how, e, b):
    """Gradients of the other vectors and of the reference are those of the batch without that sample."""
    options = {"group": "C4", "beta": 1.5, "similarity": similarity, "normalize": normalize}
    others = torch.arange(5) != b
    clean, r = rand(4, 5, 6, dtype=torch.float64), rand(6, dtype=torch.float64, seed=1)
    broken = clean.clone()
    broken[e, b] = 1.5e308 * r.sign() if how == "overflow" else how

    def gradients(vectors):
        batch = vectors.shape[1]
        leaves = vectors.flatten(0, 1).requires_grad_(), r.clone().requires_grad_()
        out = reference.orbit_losses(*leaves, **options)
        weight = torch.arange(1.0, 5.0, dtype=torch.float64)
        terms = [(out.probabilities * weight).sum(1), out.activations.square().sum(1)]
        loss = sum(term.sum() for term in terms) + batch * (out.prior + out.contrastive)
        of_vectors, of_reference = torch.autograd.grad(loss, leaves)
        return out, of_vectors.unflatten(0, (4, batch)), of_reference

    out, of_vectors, of_reference = gradients(broken)
    if how == "overflow" and similarity == "cosine":
        assert out.probabilities.isfinite().all()  # the cosine of a large vector is what it is
        return
    _, expected_of_vectors, expected_of_reference = gradients(clean[:, others])
    assert_near(of_vectors[:, others], expected_of_vectors)
    assert_near(of_reference, expected_of_reference)
    if how != "overflow":
        assert not of_vectors[e, b].any() and of_vectors.isfinite().all()


@pytest.mark.parametrize("normalize", [False, True])
def test_contrastive_loss_is_its_definition(normalize):
    vectors = rand(4 * 3, 5, dtype=torch.float64)
    total = 0.0
    for b in range(3):
        for e in range(4):
            for h in range(4):
                u, v = vectors[e * 3 + b], vectors[h * 3 + b]
                scale = u.norm() * v.norm() if normalize else 1
                total += abs((u @ v / scale).item()) * (e != h)
    loss = reference.contrastive_loss(vectors, group="C4", normalize=normalize)
    assert loss.item() == pytest.approx(total / (3 * 16), rel=1e-12)


@pytest.mark.parametrize("shape", [(4, 4), (4, 6)])
def test_factor_keeps_the_action_and_leaves_only_permutations_of_the_grid(shape):
    for group in GROUPS:
        table = group.action_table(inverse=True)
        for e, row in enumerate(geometry.rows(table)):
            code, base = geometry.factor(*row, square=shape[0] == shape[1])
            assert geometry.multiply(base, geometry.quarter_turn(code)) == pytest.approx(group.matrix(e), abs=1e-15)
            assert (base == geometry.IDENTITY) == is_exact(group, e, shape)
            assert shape[0] == shape[1] or code % 2 == 0
        assert len(table) == ROW * group.order
