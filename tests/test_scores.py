"""Scores of logits: what they equal, that they don't tie by rounding, and what is wrong."""

import pytest
import torch

from equifast import canonicalize, scores

from .cases import DTYPES, assert_same

SCORES = {
    "confidence": (scores.confidence, lambda logits: torch.logit(logits.softmax(1).amax(1))),
    "margin": (scores.margin, lambda logits: logits.sort(1).values[:, -1] - logits.sort(1).values[:, -2]),
    "negative_entropy": (
        scores.negative_entropy,
        lambda logits: -torch.distributions.Categorical(logits=logits).entropy(),
    ),
}


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
    logits[:, 0] += 25
    logits = logits.to(dtype)
    assert (logits.float().softmax(1).amax(1).to(dtype) == 1).float().mean() > 0.9
    values = SCORES[name][0](logits)
    # A margin is a difference of two bfloat16 numbers, of which there are few: ties of the logits themselves.
    distinct = 400 if name != "margin" or dtype == torch.float32 else 100
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
