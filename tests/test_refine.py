"""The search for the best rotation: its definition, what it finds, how it turns with the image, gradients, limits."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree

from equifast import act, as_group, canonicalize, losses, orbit, reference, symmetrize
from equifast.estimators import ESTIMATORS
from equifast.nn import Canonicalizer, CropResize, TinyCanonicalizer, fuse_first_layer
from equifast.refinement import Search, candidate_count, coarser, estimate, finer

from .cases import DTYPES, assert_near, assert_near_overall, assert_same, rand

GROUPS = ["C2", "C3", "C4", "C8", "D2", "D3", "D4"]
PADDING_MODES = ["border", "zeros"]


def network(dtype=torch.float64):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))
    return layers.to(dtype).eval()


def searched(x, group, refine, **options):
    """The form of a search by a network and a reference, and the same network as a score of one member."""
    module, vector = network(x.dtype), rand(5, dtype=x.dtype, seed=7)
    form = canonicalize(x, module, vector, group=group, refine=refine, **options)
    return form, lambda member: F.cosine_similarity(module(member), vector, dim=1)


def blobs(batch, size=33, seed=0, dtype=torch.float64):
    """Smooth spots beside the centre, one in each image, at random angles."""
    angle = rand(batch, seed=seed, dtype=torch.float64)[:, None, None] * torch.pi
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    distance = (at - 6 * angle.cos()).square() + (at[:, None] - 6 * angle.sin()).square()
    return torch.exp(-distance / 18)[:, None].to(dtype)


def leaning(rows):
    """How far to the right the middle of a spot is: along a turn, it rises to one maximum and falls."""
    at = torch.arange(rows.shape[3], dtype=rows.dtype) - (rows.shape[3] - 1) / 2
    return torch.stack([(rows * at).sum((1, 2, 3)), (rows * at[:, None]).sum((1, 2, 3))], 1)


def sideways(vectors):
    return vectors[:, 0]


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("name", GROUPS)
def test_it_is_the_definition(name, padding_mode):
    for size, refine in (((9, 9), 1), ((8, 11), 3)):
        x = rand(3, 2, *size, dtype=torch.float64)
        with torch.no_grad():
            form, score = searched(x, name, refine, padding_mode=padding_mode)
            activations, element = reference.refine(score, x, group=name, rounds=refine, padding_mode=padding_mode)
            assert (form.group, form.refine) == (finer(as_group(name), refine), refine)
            assert_same(form.element, element)
            assert_near(form.activations, activations)
            assert_near(form.probabilities, activations.softmax(1))
            assert_same(form.image, act(x, form.element, group=form.group, inverse=True, padding_mode=padding_mode))
            assert (form.activations.isfinite().sum(1) == candidate_count(as_group(name), refine)).all()
            assert_same(form.activations.gather(1, form.element[:, None]), form.activations.amax(1, keepdim=True))
            assert_same(form.invert(x), act(x, form.element, group=form.group, padding_mode=padding_mode))


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_every_dtype_it_is_that_of_the_widened_scores(dtype):
    """Given a score that is computed alike in all of them, from the members of that dtype."""
    x = blobs(8, dtype=dtype)

    def score(rows):
        return leaning(torch.relu(rows).double())  # a change of type alone would be made before the orbit

    form = canonicalize(x, score, score=sideways, group="C8", refine=2)
    assert form.image.dtype == dtype and form.activations.dtype == torch.float64
    members = orbit(x, form.group)
    every = sideways(score(members)).unflatten(0, (form.group.order, 8)).t()
    known = form.activations.isfinite()
    assert_near(form.activations[known], every[known], 4)
    assert_same(form.image, act(x, form.element, group=form.group, inverse=True))


@pytest.mark.parametrize("name", GROUPS)
def test_no_rounds_are_the_plain_call(name):
    x = rand(4, 2, 9, 9)
    ours, plain = searched(x, name, 0)[0], canonicalize(x, network(x.dtype), rand(5, seed=7), group=name)
    for a, b in zip(_pytree.tree_leaves(ours), _pytree.tree_leaves(plain), strict=True):
        assert_same(a, b)
    assert (ours.group, ours.refine) == (plain.group, 0)


@pytest.mark.parametrize("name", ["C2", "C3", "C4", "C6"])
def test_scores_with_one_maximum_give_the_best_of_all(name):
    x = blobs(24)
    for refine in (1, 3):
        form = canonicalize(x, leaning, score=sideways, group=name, refine=refine)
        fine = canonicalize(x, leaning, score=sideways, group=form.group)
        assert_same(form.element, fine.element)
        assert_same(form.image, fine.image)
        known = form.activations.isfinite()
        assert_near(form.activations[known], fine.activations[known])


@pytest.mark.parametrize("name", ["C2", "C4", "C8", "D2", "D4"])
def test_exact_turns_of_an_image_turn_the_answer_bit_for_bit(name):
    group = as_group(name)
    x = rand(5, 2, 10, 10, dtype=torch.float64)
    with torch.no_grad():
        form, _ = searched(x, name, 3)
        assert not form.tied.any()
        for h in filter(lambda h: group.is_exact(h, 10, 10), range(group.order)):
            turned, _ = searched(act(x, torch.full((5,), h), group=group), name, 3)
            turn, flip = group.split(h)
            in_fine = form.group.element(8 * turn, flip)
            expected = [form.group.compose(in_fine, e) for e in form.element.tolist()]
            assert turned.element.tolist() == expected
            assert_same(turned.image, form.image)


def test_any_turn_of_a_smooth_image_comes_back_within_the_last_step():
    x, fine, refine = blobs(16), as_group("C360"), 5
    home = canonicalize(x, leaning, score=sideways, group="C8", refine=refine)
    for h in (1, 17, 100, 203, 359):
        turned = act(x, torch.full((16,), h), group=fine)
        form = canonicalize(turned, leaning, score=sideways, group="C8", refine=refine)
        steps = (form.element - home.element) - h / 360 * form.group.n
        off = (steps + form.group.n / 2) % form.group.n - form.group.n / 2
        assert off.abs().max() <= 1.25  # half a step each, and what is left of the pixel grid


def test_nested_groups_have_the_same_members_bit_for_bit():
    """So a round may make its members by the smallest group that has them."""
    x = rand(2, 3, 9, 9)
    for name in ("C3", "C8", "D5"):
        group = as_group(name)
        fine = finer(group, 3)
        assert coarser(fine, 3) == group
        for e in range(group.order):
            turn, flip = group.split(e)
            rows = (torch.full((2,), e), torch.full((2,), fine.element(8 * turn, flip)))
            assert_same(*(act(x, ids, group=g, inverse=True) for ids, g in zip(rows, (group, fine), strict=True)))


@pytest.mark.parametrize("estimator", ["straight_through", "angle", "soft", "none"])
@pytest.mark.parametrize("name", ["C4", "D3"])
def test_gradients_are_those_over_all_elements_of_the_finest_group(name, estimator):
    """The others have probability 0; here their members are made all the same."""
    x = rand(5, 2, 7, 7, dtype=torch.float64)
    form, _ = searched(x, name, 2)
    scores = form.activations.detach().clone()
    scores[0, 0] = torch.nan  # falls back
    scores[1, 0] = -torch.inf  # masked
    known = form.activations.isfinite()
    candidates = known.nonzero()[:, 1].unflatten(0, (5, -1))
    in_orbit = candidates % 4 == 0  # of the coarse group, which come first
    order = (~in_orbit).to(torch.int8).argsort(dim=1, stable=True)
    candidates = candidates.gather(1, order)
    grads, images, tangents = [], [], []
    for searching in (True, False):
        leaves = [x.clone().requires_grad_(), scores.clone().requires_grad_()]

        def run(x, scores, searching=searching):
            chosen = canonicalize(x, group=form.group, activations=scores, estimator="none")
            selected = reference.select(scores, 3.0)._replace(element=chosen.element)
            if searching:
                found = Search(selected, candidates, as_group(name), form.group)
                return estimate(estimator, x, found, 3.0, "border")[0]
            return ESTIMATORS[estimator](x, selected, form.group, 3.0, "border")[0]

        image = run(*leaves)
        images.append(image)
        upstream = rand(*image.shape, dtype=torch.float64, seed=4)
        grads.append(torch.autograd.grad(image, leaves, upstream, allow_unused=True))
        finite = scores.nan_to_num(0, neginf=-9)
        seeds = (rand(*x.shape, dtype=torch.float64, seed=5), rand(*scores.shape, dtype=torch.float64, seed=6) * known)
        tangents.append(torch.func.jvp(run, (x, torch.where(known, finite, -torch.inf)), seeds)[1])
    assert_near(*images)
    assert_near(*tangents)
    for ours, dense in zip(*grads, strict=True):
        assert (ours is None) == (dense is None)
        if ours is not None:
            assert_near_overall(ours, dense)


def test_gumbel_draws_among_the_candidates():
    x = rand(64, 2, 7, 7, dtype=torch.float64)
    torch.manual_seed(0)
    form, _ = searched(x, "C4", 2, estimator="gumbel", beta=0.5)
    drawn = form.activations.gather(1, form.element[:, None])
    assert drawn.isfinite().all() and (drawn < form.activations.amax(1, keepdim=True)).any()
    assert_same(form.image, act(x, form.element, group=form.group, inverse=True))


def test_training_reaches_the_network_through_every_candidate():
    module = Canonicalizer(network().train(), "C4", vector_size=5, refine=2, beta=2.0).double()
    x = rand(3, 2, 9, 9, dtype=torch.float64).requires_grad_()
    form = module(x)
    (form.image.square().sum() + form.prior_loss() + form.contrastive_loss()).backward()
    for parameter in (x, *module.parameters()):
        assert parameter.grad.isfinite().all() and parameter.grad.any()
    expected = losses.contrastive_loss(form.vectors, group="C4")
    assert form.vectors.shape == (3, 4, 5)
    assert_same(form.contrastive_loss(), expected)


def test_gate_and_what_is_not_finite():
    x = blobs(6)

    def score(vectors):
        values = vectors[:, 0].clone().unflatten(0, (-1, 6))
        values[:, 1] = torch.nan
        values[:, 2] = torch.inf
        values[:, 3] = -torch.inf
        return values.flatten()

    free = canonicalize(x, leaning, score=score, group="C4", refine=3)
    assert (free.element[1:4] == 0).all() and free.probabilities[1:4].isnan().all()
    assert_same(free.image[1:4], x[1:4])
    assert (free.element[[0, 4, 5]] > 0).all()
    assert_near(free.entropy[0], torch.special.entr(free.probabilities[0]).sum())
    gate = free.margin[[0, 4, 5]].median().item()
    form = canonicalize(x, leaning, score=score, group="C4", refine=3, gate=gate)
    held = free.margin < gate
    assert held.any()
    assert_same(form.element, free.element.masked_fill(held, 0))
    assert_same(form.gated, held)
    assert_same(form.image[held], x[held])


def test_a_flat_score_leaves_the_image_alone():
    x = rand(3, 2, 8, 8)
    form = canonicalize(x, lambda rows: rows.flatten(1)[:, :2], score=lambda v: v[:, 0] * 0, group="C8", refine=4)
    assert (form.element == 0).all() and form.tied.all()
    assert_same(form.image, x)


@pytest.mark.parametrize("name", ["C4", "D3"])
def test_networks_that_make_the_orbit_themselves(name):
    x = rand(4, 2, 9, 9, dtype=torch.float64)
    plain, _ = searched(x, name, 2)
    module = fuse_first_layer(network(), name)
    form = canonicalize(x, module, rand(5, dtype=torch.float64, seed=7), group=name, refine=2)
    for ours, theirs in zip(_pytree.tree_leaves(form), _pytree.tree_leaves(plain), strict=True):
        assert_near(ours.detach(), theirs.detach())
    torch.manual_seed(0)
    tiny = TinyCanonicalizer(2, name, channels=5, kernel_size=3, refine=2).double().eval()
    layer = tiny.network

    def rows_to_vectors(rows):
        return F.gelu(F.conv2d(rows, layer.weight, layer.bias, 2)).mean((2, 3))

    with torch.no_grad():
        expected = canonicalize(x, rows_to_vectors, tiny.reference, group=name, refine=2)
        assert_near(tiny(x).activations, expected.activations)
        assert_same(tiny(x).element, expected.element)


def test_members_are_made_of_what_the_network_sees():
    x = rand(4, 2, 16, 16, dtype=torch.float64)
    small = CropResize(0.8, 9)
    form, score = searched(x, "C4", 2, preprocess=small)
    activations, element = reference.refine(score, small(x), group="C4", rounds=2)
    assert_near(form.activations.detach(), activations)
    assert_same(form.element, element)
    assert_same(form.image.detach(), act(x, element, group=form.group, inverse=True))


@pytest.mark.parametrize("k", [1, 2, 5, None])
def test_averages_are_over_what_was_evaluated(k):
    x = rand(3, 2, 6, 6, dtype=torch.float64)
    form, _ = searched(x, "C4", 2, beta=3.0)
    model = nn.Conv2d(2, 3, 3, padding=1).double()
    for representation in ("invariant", "trivial"):
        run = (lambda rows: model(rows).mean((2, 3))) if representation == "invariant" else model
        options = {"representation": representation, "weights": "probabilities"}
        expected = reference.average(
            run, x, form.activations, form.probabilities, group=form.group, top_k=k or 8, **options
        )
        assert_near(form.average(run, x, top_k=k, **options).detach(), expected.detach())
    with pytest.raises(ValueError, match="top_k: expected 1 to 8 members for C16, got 9"):
        form.average(model, x, top_k=9)
    canonicalizer = Canonicalizer(network(), "C4", vector_size=5, refine=2).double()
    assert symmetrize(model, "C4", canonicalizer=canonicalizer).top_k == 8


def test_targets_follow_by_the_finest_group():
    x = blobs(4)
    form = canonicalize(x, leaning, score=sideways, group="C8", refine=4)
    spots = torch.stack([leaning(x)[:, 0], leaning(x)[:, 1]], 1) / x.sum((1, 2, 3))[:, None] + 16
    moved = form.transform_points(spots[:, None])[:, 0] - 16
    assert (torch.atan2(moved[:, 1], moved[:, 0]).abs() <= torch.pi / form.group.n * 1.1).all()
    assert_near(form.invert_points(moved[:, None] + 16)[:, 0], spots)


def test_no_images_and_one():
    for batch in (0, 1):
        form, _ = searched(rand(batch, 2, 7, 7), "D4", 2)
        assert form.image.shape == (batch, 2, 7, 7) and form.activations.shape == (batch, 32)
        assert form.probabilities.shape == (batch, 32) and form.vectors.shape == (batch, 8, 5)


def test_forms_keep_their_rounds_wherever_they_go():
    form = _pytree.tree_map(torch.detach, searched(rand(2, 2, 7, 7), "C4", 2)[0])
    leaves, spec = _pytree.tree_flatten(form)
    spec = _pytree.treespec_loads(_pytree.treespec_dumps(spec))
    file = io.BytesIO()
    torch.save(form, file)
    file.seek(0)
    for other in (spec.unflatten(leaves), torch.load(file, weights_only=True), copy.deepcopy(form)):
        assert (other.refine, other.group) == (2, form.group)
        assert_same(other.contrastive_loss(), form.contrastive_loss())


def test_wrong_rounds():
    x = rand(2, 2, 7, 7)
    for group, refine, error, match in [
        ("C4", 1.0, TypeError, "refine: expected an int, got float"),
        ("C4", True, TypeError, "refine: expected an int, got bool"),
        ("C4", -1, ValueError, "refine: expected 0 to 10 rounds for C4, got -1"),
        ("D3", 11, ValueError, "refine: expected 0 to 10 rounds for D3, got 11"),
        ("C1", 1, ValueError, "refine: expected 0 with C1, which has no rotations to start from"),
    ]:
        with pytest.raises(error, match=match):
            canonicalize(x, network(), rand(5), group=group, refine=refine)
        with pytest.raises(error, match=match):
            Canonicalizer(network(), group, refine=refine)
    with pytest.raises(ValueError, match="refine: expected 0, since activations are given"):
        canonicalize(x, group="C4", activations=rand(2, 4), refine=1)
    assert "refine=2" in repr(Canonicalizer(network(), "C4", refine=2))
