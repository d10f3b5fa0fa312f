"""Scores of logits: what they equal, that they don't tie by rounding, and what is wrong."""

import pytest
import torch

from equifast import canonicalize, ops, scores
from equifast.nn import Canonicalizer

from .cases import DTYPES, assert_near, assert_same

SCORES = {
    "confidence": (scores.confidence, lambda logits: torch.logit(logits.softmax(1).amax(1))),
    "margin": (scores.margin, lambda logits: logits.sort(1).values[:, -1] - logits.sort(1).values[:, -2]),
    "negative_entropy": (
        scores.negative_entropy,
        lambda logits: -torch.distributions.Categorical(logits=logits).entropy(),
    ),
    "energy": (scores.energy, lambda logits: logits.logsumexp(1)),
    "of_class": (scores.of_class(3), lambda logits: torch.logit(logits.softmax(1)[:, 3])),
}


def test_every_score_by_name_is_tested():
    assert set(scores.NAMED) | {"of_class"} == set(SCORES)


@pytest.fixture
def logits():
    return 3 * torch.randn(200, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", SCORES)
def test_equals_its_definition_and_differentiates(name, logits):
    ours, theirs = SCORES[name]
    torch.testing.assert_close(ours(logits), theirs(logits))
    assert torch.autograd.gradcheck(ours, logits[:5].requires_grad_())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SCORES)
def test_any_type_and_an_empty_batch(name, dtype, logits):
    ours, theirs = SCORES[name]
    values = logits.to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert ours(values).dtype == wide and ours(values[:0]).shape == (0,)
    torch.testing.assert_close(ours(values), theirs(values.double()).to(wide), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", SCORES)
def test_no_ties_where_probabilities_round_to_one(name, dtype):
    """Logits far apart, as those of a classifier that is sure. The largest probability ties for most; these don't."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 10, generator=generator)
    logits[:, 3] += 25
    logits = logits.to(dtype)
    assert (logits.float().softmax(1).amax(1).to(dtype) == 1).float().mean() > 0.9
    values = SCORES[name][0](logits)
    # A margin is a difference of two bfloat16 numbers, and an energy is hardly more than the largest of them. There are
    # few such numbers: these are ties of the logits themselves.
    few = {"margin": 100, "energy": 40} if dtype == torch.bfloat16 else {}
    distinct = few.get(name, 400)
    assert values.unique().numel() >= 0.99 * distinct


def test_a_sure_classifier_gives_one_class_for_every_turn():
    """As README's example: the largest probability would tie, and the class would change with the turn."""
    torch.manual_seed(0)
    x = torch.rand(64, 3, 16, 16)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 10)).bfloat16()
    model[1].weight.data *= 60

    def classes(x, score):
        with torch.no_grad():
            form = canonicalize(x.bfloat16(), model, None, score=score, group="C4")
            return form, model(form.image).argmax(1)

    def largest(logits):
        return logits.softmax(1).amax(1)

    changed = {}
    for score in (largest, scores.confidence):
        form, upright = classes(x, score)
        changed[score] = sum((classes(x.rot90(k, (2, 3)), score)[1] != upright).sum().item() for k in (1, 2, 3))
    assert changed[largest] > 0 and changed[scores.confidence] == 0
    assert_same(classes(x.rot90(1, (2, 3)), scores.confidence)[0].image, form.image)


@pytest.mark.parametrize("name", SCORES)
def test_what_is_wrong_is_named(name):
    for bad, error, message in (
        (torch.rand(3), ValueError, r"logits: expected \(N, K\) with K ≥ 2 classes, got \(3,\)"),
        (torch.rand(3, 1), ValueError, r"logits: expected \(N, K\) with K ≥ 2 classes, got \(3, 1\)"),
        (torch.ones(3, 2).int(), TypeError, "logits: expected float64, .* got torch.int32"),
        ([1.0], TypeError, "logits: expected a Tensor, got list"),
    ):
        with pytest.raises(error, match=message):
            SCORES[name][0](bad)


def test_a_class_for_each_image_is_that_of_its_rows(logits):
    labels = torch.arange(50) % 7
    by_labels = scores.of_class(labels)(logits).view(4, 50)
    for label in range(7):
        of_one = scores.of_class(label)(logits).view(4, 50)
        assert_same(by_labels[:, labels == label], of_one[:, labels == label])


def test_what_is_wrong_with_a_class_is_named(logits):
    for bad, error, message in (
        (7, ValueError, "index: expected a class from 0 to 6, got 7"),
        (-1, ValueError, "index: expected a class from 0 to 6, got -1"),
        (torch.tensor([1, 7]), ValueError, r"index: expected ids in \[0, 7\), got 7"),
        (torch.zeros(200).int(), TypeError, "index: expected int64 ids, got torch.int32"),
        (torch.zeros(3, dtype=torch.int64), ValueError, r"logits: expected E·B rows with B = 3 as in index"),
    ):
        with pytest.raises(error, match=message):
            scores.of_class(bad)(logits)
    for bad in (1.0, "7", True, None):
        with pytest.raises(TypeError, match=f"index: expected an int or a Tensor, got {type(bad).__name__}"):
            scores.of_class(bad)


def test_a_class_that_is_excluded_counts_for_nothing():
    """A logit of -inf: the score, and its gradient, are those of the other classes."""
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[:, 2] = -torch.inf
    without = logits[:, [0, 1, 3, 4, 5]]
    for name in scores.NAMED:
        grads = []
        for values in (logits.clone(), without.clone()):
            out = scores.NAMED[name](values.requires_grad_())
            grads.append((out, *torch.autograd.grad(out.sum(), values)))
        assert_near(grads[0][0], grads[1][0])
        assert_near(grads[0][1][:, [0, 1, 3, 4, 5]], grads[1][1])
        assert not grads[0][1][:, 2].any()


#: One score in each way that `canonicalize` takes it, and what computes it alone.
WAYS = {
    "a name": ("energy", scores.energy),
    "a function": (scores.margin, scores.margin),
    "a class": (scores.of_class(3), scores.of_class(3)),
    "labels": (scores.of_class(torch.tensor([1, 0, 3])), scores.of_class(torch.tensor([1, 0, 3]))),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_scores_run_with_the_choice_in_one_op(way, dtype, monkeypatch):
    """The form is that of the same function under another name, which the op doesn't know."""
    score, function = WAYS[way]
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)).to(dtype)
    apart = canonicalize(x, network, score=lambda logits: function(logits), group="D4", beta=3.0)
    called = []
    fused = ops.orbit_logit_scores
    monkeypatch.setattr(ops, "orbit_logit_scores", lambda *args, **options: called.append(1) or fused(*args, **options))
    for form in (
        canonicalize(x, network, score=score, group="D4", beta=3.0),
        Canonicalizer(network, "D4", score=score, beta=3.0)(x),
    ):
        assert_same(form.element, apart.element)
        assert_same(form.image, apart.image)
        assert form.activations.dtype == torch.float32
        assert_near(form.activations, apart.activations)
        assert_near(form.probabilities, apart.probabilities)
    assert called == [1, 1]


def test_a_score_by_name_trains_the_network_as_its_function_does():
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5)).double()
    grads = []
    for score in ("negative_entropy", lambda logits: scores.negative_entropy(logits)):
        form = canonicalize(x, network, score=score, group="C4")
        loss = form.image.square().sum() + form.prior_loss()
        grads.append(torch.autograd.grad(loss, network[1].weight)[0])
    assert_near(*grads)


@pytest.mark.parametrize("call", [canonicalize, lambda x, network, **options: Canonicalizer(network, **options)])
def test_a_score_that_does_not_exist_is_an_error(call):
    x, network = torch.rand(2, 3, 8, 8), torch.nn.Flatten()
    message = "score: expected one of confidence, margin, negative_entropy, energy, got 'class'"
    with pytest.raises(ValueError, match=message):
        call(x, network, score="class", group="C4")
    with pytest.raises(TypeError, match="score: expected a name or a callable, got int"):
        call(x, network, score=3, group="C4")
