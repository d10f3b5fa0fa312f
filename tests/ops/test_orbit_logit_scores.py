"""orbit_logit_scores: the functions of `scores`, ties, logits that are not finite, and the choice."""

import itertools
import math

import pytest
import torch

from equifast import orbit_logit_scores, reference, scores

from ..backend import by_backend
from ..cases import DTYPES, amid_nan, assert_near, assert_same_in_any_layout, assert_same_sum, rand
from ..definitions import call, eager
from ..vectors import LAYOUTS, assert_all_near

SCORES = (*scores.NAMED, "class")

#: E, K and B: around the widths of vectors and tiles.
PROBLEMS = [(1, 2, 3), (2, 10, 0), (3, 15, 17), (4, 33, 2), (5, 1000, 2), (8, 10, 5), (16, 129, 1), (64, 17, 2)]
PROBLEMS = by_backend(PROBLEMS, [(1, 2, 3), (2, 10, 0), (5, 33, 2), (8, 17, 3)])
EVERY = list(itertools.product(SCORES, DTYPES))


def logits_of(order, classes, batch, dtype=torch.float32, seed=0):
    return 6 * rand(order * batch, classes, dtype=dtype, seed=seed)


def index_of(score, classes, batch):
    return torch.arange(batch, device=rand(1).device) * 5 % classes if score == "class" else None


def function_of(score, index=None):
    return scores.of_class(index) if score == "class" else scores.NAMED[score]


def check(logits, index, order, score, name, turn=0):
    """Values and gradients of the op against those of its definition, with one or both gradients from above."""
    args = logits, index, order, score, 0.7
    out, expected = call("orbit_logit_scores", *args), eager("orbit_logit_scores", *args)
    assert_all_near(out[:2], expected[:2], name)
    usable = ~expected[1].isnan().any(1)
    assert torch.equal(out[2], torch.where(usable, out[0].nan_to_num(0, 0).argmax(1), 0)), name
    shape = expected[1].shape
    wide = expected[0].dtype
    grads = rand(*shape, dtype=wide, seed=2), rand(*shape[::-1], dtype=wide, seed=3).t()
    pair = (grads, (grads[0], None), (None, grads[1]))[turn % 3]
    args = *pair, logits, index, expected[1], score, 0.7
    grad = call("orbit_logit_scores_backward", *args)
    assert_all_near(grad, eager("orbit_logit_scores_backward", *args), name)
    assert grad[0].isfinite().all()


@pytest.mark.sanitized
@pytest.mark.parametrize("score", SCORES)
def test_every_size_type_and_layout(score):
    kinds = itertools.cycle(itertools.product(LAYOUTS.items(), DTYPES))
    for _ in range(SCORES.index(score)):
        next(kinds)
    for turn, (order, classes, batch) in enumerate(PROBLEMS):
        (layout, lay), dtype = next(kinds)
        name = f"E {order}, K {classes}, B {batch}, {dtype}, {layout}"
        logits = lay(logits_of(order, classes, batch, dtype))
        check(logits, index_of(score, classes, batch), order, score, name, turn)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_activations_are_the_functions_of_scores(dtype):
    """In float32 at least, whatever the type of the logits, so that a sure classifier's don't tie."""
    logits, labels = logits_of(4, 10, 6, dtype), torch.arange(6)
    for score in SCORES:
        index = labels.to(logits.device) if score == "class" else None
        out = orbit_logit_scores(logits, group="C4", score=score, index=index, beta=2.0)
        expected = function_of(score, index)(logits).view(4, 6).t()
        assert out.activations.dtype == out.probabilities.dtype == expected.dtype
        assert_near(out.activations, expected)
        assert_near(out.probabilities, (2 * expected.double()).softmax(1))
        assert_same_sum(out.element, out.activations.argmax(1))
    for_all = orbit_logit_scores(logits, group="C4", score="class", index=3)
    for_each = orbit_logit_scores(logits, group="C4", score="class", index=torch.full_like(labels, 3).to(logits.device))
    for one, other in zip(for_all, for_each, strict=True):
        assert_same_sum(one, other)


def test_gradients_are_those_of_autograd():
    """Of the definition, by torch's own derivatives: the formula of the backward pass stands on its own."""
    for score, dtype in EVERY if by_backend(True, False) else EVERY[:: len(DTYPES)]:
        leaf = logits_of(3, 9, 4, dtype).requires_grad_()
        index = index_of(score, 9, 4)
        upstream = rand(4, 3, seed=1), rand(4, 3, seed=2)
        grads = []
        for library in (orbit_logit_scores, reference.orbit_logit_scores):
            out = library(leaf, group="C3", score=score, index=index, beta=0.7)
            grads += torch.autograd.grad(out[:2], leaf, [u.to(out[0].dtype) for u in upstream])
        assert_all_near(grads[:1], grads[1:], f"{score}, {dtype}")


@pytest.mark.parametrize("score", SCORES)
def test_the_lowest_id_wins_a_tie(score):
    row = rand(1, 7)
    out = orbit_logit_scores(row.expand(8 * 3, 7), group="D4", score=score, index=index_of(score, 7, 3))
    assert out.element.tolist() == [0] * 3
    assert_near(out.probabilities, torch.full((3, 8), 1 / 8))


def test_the_first_of_equal_logits_has_the_gradient():
    """Of the margin, whose value is the largest logit less the next one."""
    logits = torch.tensor([[1.0, 5, 2, 5, 5], [0, 1, 3, 1, 1], [2, 1, 1, 1, 1]], device=rand(1).device)
    expected = torch.tensor([[0.0, 1, 0, -1, 0], [0, -1, 1, 0, 0], [1, -1, 0, 0, 0]], device=logits.device)
    for dtype in DTYPES:
        leaf = logits.to(dtype).requires_grad_()
        out = orbit_logit_scores(leaf, group="C1", score="margin")
        assert out.activations.flatten().tolist() == [0, 2, 1]
        for activations in (out.activations, scores.margin(leaf)):
            assert torch.equal(torch.autograd.grad(activations.sum(), leaf)[0], expected.to(dtype)), dtype


@pytest.mark.parametrize("score", SCORES)
def test_scores_of_a_sure_classifier_do_not_tie(score):
    """Logits so far apart that each largest probability is exactly 1."""
    logits = rand(16, 10)
    logits[:, 5] += 25
    out = orbit_logit_scores(logits, group="D8", score=score, index=5 if score == "class" else None)
    assert (logits.softmax(1)[:, 5] == 1).all()
    if score != "negative_entropy":  # by which all are sure
        assert out.activations.unique().numel() == 16


#: A sample's rows of three logits, what each score says, and by which scores the sample falls back.
LOWEST = -math.inf
SPOILT = {
    "nan": ([[0, math.nan, 1], [1, 2, 3]], SCORES),
    "one +inf": ([[0, math.inf, 1], [1, 2, 3]], SCORES),
    "two +inf": ([[math.inf, math.inf, 1], [1, 2, 3]], SCORES),
    "nan and +inf": ([[math.nan, math.inf, 1], [1, 2, 3]], SCORES),
    "nan and -inf": ([[math.nan, LOWEST, LOWEST], [1, 2, 3]], SCORES),
    "one -inf": ([[LOWEST, 2, 1], [1, 2, 3]], ()),
    "two -inf": ([[LOWEST, LOWEST, 1], [1, 2, 3]], ("confidence", "margin")),
    "all -inf": ([[LOWEST, LOWEST, LOWEST], [1, 2, 3]], ("confidence", "margin", "negative_entropy", "class")),
    "far apart": ([[-1e4, 2, 1e4], [1, 2, 3]], ()),
    "huge": ([[6e4, 6e4, -6e4], [1, 2, 3]], ()),
}


@pytest.mark.sanitized
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("score", SCORES)
def test_logits_that_are_not_finite_change_their_sample_alone(score):
    """Whatever the definition says, the gradient is finite, and 0 for a sample that fell back."""
    for dtype, (name, (rows, fallen)) in zip(itertools.cycle(DTYPES), SPOILT.items(), strict=False):
        logits = rand(2, 3, 3, dtype=dtype)
        clean = call("orbit_logit_scores", logits.flatten(0, 1), index_of(score, 3, 3), 2, score, 1.0)
        logits[:, 1] = torch.tensor(rows, dtype=dtype)
        index = None if score != "class" else torch.full((3,), 1, device=logits.device)
        flat = logits.flatten(0, 1)
        check(flat, index, 2, score, f"{name}, {dtype}")
        out = orbit_logit_scores(flat, group="C2", score=score, index=index)
        assert (out.probabilities[1].isnan().all() and out.element[1] == 0) == (score in fallen), name
        if score != "class":
            assert_same_sum(out.activations[::2], clean[0][::2])


def test_a_class_that_is_excluded_from_a_member_masks_it():
    logits = rand(4 * 2, 5)
    logits[2, 3] = LOWEST  # of element 1 and sample 0
    out = orbit_logit_scores(logits, group="C4", score="class", index=3)
    assert out.activations[0, 1] == LOWEST and out.probabilities[0, 1] == 0
    assert out.element[0] != 1 and not out.probabilities.isnan().any()


def test_a_class_that_does_not_exist_has_no_score():
    """Kernels don't read beyond the logits; the public function raises an error where it may look at the classes."""
    for wrong in (-1, 5, 2**40):
        index = torch.tensor([2, wrong], device=rand(1).device)
        inside = amid_nan(logits_of(2, 5, 2), 16)
        if by_backend(True, True, reference=False):
            out = call("orbit_logit_scores", inside, index, 2, "class", 1.0)
            assert out[0][1].isnan().all() and out[0][0].isfinite().all() and out[2][1] == 0
            grads = rand(2, 2), rand(2, 2, seed=1)
            grad = call("orbit_logit_scores_backward", *grads, inside, index, out[1], "class", 1.0)[0]
            assert not grad.view(2, 2, 5)[:, 1].any() and grad.view(2, 2, 5)[:, 0].any()


def test_many_classes():
    classes = by_backend(50_000, 3_000, interpreter=9_000)
    for score, dtype in zip(SCORES, (*DTYPES, torch.float32), strict=True):
        check(logits_of(2, classes, 1, dtype), index_of(score, classes, 1), 2, score, f"{score}, {dtype}")


@pytest.mark.parametrize("score", SCORES)
def test_a_sample_depends_on_no_other_sample(score):
    logits, index = logits_of(4, 19, 20).view(4, 20, 19), index_of(score, 19, 20)
    together = call("orbit_logit_scores", logits.flatten(0, 1), index, 4, score, 1.0)
    for b in (0, 15, 19):
        own = None if index is None else index[b : b + 1]
        alone = call("orbit_logit_scores", logits[:, b], own, 4, score, 1.0)
        for one, other in zip(alone, together, strict=True):
            assert_same_sum(one, other[b : b + 1])


def test_any_layout_has_the_same_bits():
    for score in SCORES:
        logits, index = logits_of(4, 37, 3), index_of(score, 37, 3)
        expected = call("orbit_logit_scores", logits, index, 4, score, 1.0)
        for lay in LAYOUTS.values():
            for one, other in zip(call("orbit_logit_scores", lay(logits), index, 4, score, 1.0), expected, strict=True):
                assert_same_in_any_layout(one, other)
