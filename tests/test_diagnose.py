"""`diagnose`: what it must find of models and canonicalizers whose properties are known by construction."""

import json
import types

import pytest
import torch
from torch import nn

import equifast
from equifast import act, as_group, canonicalize, diagnose, scores
from equifast.diagnose.chance import LEVEL, means, shares, told
from equifast.nn import Canonicalizer

from .cases import DTYPES, assert_near, assert_same, every, exact_elements, rand

#: Runs without times: those are tested by themselves.
UNTIMED = {"rounds": 0, "batch_size": 16}


class Invariant(nn.Module):
    """Tells images apart by sums over their pixels, which are exact for whole numbers, however they are turned."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 4).double()

    def forward(self, x):
        return self.last(x.sum((2, 3)) / 256)


def network(outputs, size=9, dtype=torch.float32):
    """A network whose outputs change with every turn."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * ((size - 1) // 2) ** 2, outputs)
    return nn.Sequential(*layers).to(dtype).eval()


def whole_numbers(batch, *size):
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randint(256, (batch, 3, *size), generator=generator, device="cpu").to(rand(1).device).double()


@pytest.mark.parametrize(
    ("group", "size"), [("C4", (7, 7)), ("D4", (6, 6)), ("D2", (5, 8)), ("D1", (3, 4)), ("C1", (4, 4))]
)
def test_a_model_that_is_invariant_by_construction_does_not_change(group, size):
    found = diagnose(Invariant().eval(), whole_numbers(20, *size), torch.arange(20) % 4, group, **UNTIMED)
    assert all(found.exact) and found.notes == [] and found.features == "last"
    for views in (found.before, found.after):
        for values, expected in (
            (views.consistency, 1),
            (views.distance, 0),
            (views.feature_distance, 0),
            (views.accuracy, views.accuracy.mean[0]),
            (views.confidence, views.confidence.mean[0]),
        ):
            assert (values.mean == expected).all() and len(values.mean) == as_group(group).order
    assert found.kept.mean == 1
    assert found.choices.tied.mean == (as_group(group).order > 1)


@pytest.mark.parametrize(("group", "size"), [("C4", 9), ("D4", 9), ("C8", 9), ("D1", 9)])
def test_a_canonicalized_model_does_not_change_by_exact_elements(group, size):
    x = rand(24, 3, size, size)
    learned = Canonicalizer(network(8), group, vector_size=8).eval()
    exact = exact_elements(group, (size, size))
    for canonicalizer in (None, learned):
        found = diagnose(network(5), x, group=group, canonicalizer=canonicalizer, **UNTIMED)
        assert [e for e in every(group).tolist() if found.exact[e]] == exact
        assert found.choices.tied.mean == 0
        for values, expected in (
            (found.after.consistency, 1),
            (found.after.distance, 0),
            (found.after.feature_distance, 0),
            (found.choices.equivariance, 1),
        ):
            assert (values.mean[exact] == expected).all()
        assert (found.before.distance.mean[1:] > 0).all() and (found.before.consistency.mean[1:] < 1).all()
        if len(exact) < len(found.exact):
            assert "inscribed disc" in found.notes[0] and (found.after.distance.mean > 0).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_figures_are_what_a_loop_over_images_gives(dtype):
    """One image at a time, in every dtype; the canonicalizer is asked about each turned image anew."""
    if dtype == torch.float16 and rand(1).device.type == "cpu":
        model = network(5)
        images, run = rand(10, 3, 9, 9, dtype=dtype), lambda x: model(x.float()).half()
    else:
        images, run = rand(10, 3, 9, 9, dtype=dtype), network(5, dtype=dtype)
    labels, group = torch.arange(10) % 5, as_group("D2")
    canonicalizer = Canonicalizer(lambda rows: rows.flatten(1)[:, :50], group, vector_size=50).to(dtype).eval()
    found = diagnose(run, images, labels, group, canonicalizer=canonicalizer, rounds=0, batch_size=4)
    with torch.no_grad():
        for views, prepare in ((found.before, lambda x: x), (found.after, lambda x: canonicalizer(x).image)):
            upright = run(prepare(images)).double().softmax(1)
            for h in range(group.order):
                p = run(prepare(act(images, torch.full((10,), h), group=group))).double().softmax(1)
                expected = {
                    "accuracy": (p.argmax(1) == labels).double().mean(),
                    "confidence": p.max(1).values.mean(),
                    "consistency": (p.argmax(1) == upright.argmax(1)).double().mean(),
                    "distance": (p - upright).abs().sum(1).mean() / 2,
                }
                for name, value in expected.items():
                    torch.testing.assert_close(getattr(views, name).mean[h], value, rtol=1e-2, atol=1e-2)
        elements = [canonicalizer(act(images, torch.full((10,), h), group=group)).element for h in range(group.order)]
    for h, chosen in enumerate(elements):
        assert_same(found.choices.counts[h], torch.bincount(chosen, minlength=group.order))
    assert found.choices.identity.mean == (elements[0] == 0).double().mean()


def chooser(group, element_of):
    """A canonicalizer that chooses the elements which a function of the images names."""

    def choose(x):
        activations = nn.functional.one_hot(element_of(x), as_group(group).order).to(x.dtype)
        return canonicalize(x, group=group, activations=activations, estimator="none")

    return choose


def test_a_constant_choice_changes_nothing():
    x = rand(20, 3, 9, 9)
    constant = chooser("C4", lambda x: torch.zeros(len(x), dtype=torch.int64))
    found = diagnose(network(4), x, torch.arange(20) % 4, canonicalizer=constant, **UNTIMED)
    for name in ("accuracy", "confidence", "consistency", "distance", "feature_distance"):
        assert_same(getattr(found.after, name).mean, getattr(found.before, name).mean)
    assert found.kept.mean == found.choices.identity.mean == 1
    assert found.choices.equivariance.mean.tolist() == [1, 0, 0, 0]
    assert found.choices.counts.tolist() == [[20, 0, 0, 0]] * 4
    assert not found.turn_from_element.is_above_chance and found.leaks == []


def marked(count=120, size=9):
    """Noise with a bright upper edge, which tells how an image lies, and a label in the sign of its mean."""
    generator = torch.Generator("cpu").manual_seed(5)
    labels = torch.randint(2, (count,), generator=generator, device="cpu").to(rand(1).device)
    images = rand(count, 3, size, size, seed=3) / 10 + (2 * labels - 1)[:, None, None, None]
    images[:, :, 0] += 10
    return images, labels


def quarter(x):
    """How many quarter turns the bright edge has made."""
    edges = torch.stack([x[:, :, 0, 1:-1], x[:, :, 1:-1, 0], x[:, :, -1, 1:-1], x[:, :, 1:-1, -1]], 1)
    return edges.mean((2, 3)).argmax(1)


def label_of(x):
    return (x[:, :, 2:-2, 2:-2].mean((1, 2, 3)) > 0).long()


#: What tells the label or a trace of the turn, and what a diagnosis must call it.
PLANTED = {
    "honest": (quarter, []),
    "the label, whatever the turn": (label_of, ["label_from_element", "label_from_turned"]),
    "the label, turned along": (lambda x: (quarter(x) + 2 * label_of(x)) % 4, ["label_from_element"]),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_choice_that_tells_the_label_is_found(name):
    element_of, expected = PLANTED[name]
    images, labels = marked()
    found = diagnose(network(2), images, labels, canonicalizer=chooser("C4", element_of), **UNTIMED)
    assert found.leaks == expected
    equivariant = name != "the label, whatever the turn"
    assert (found.choices.equivariance.mean == 1).all() == equivariant
    assert found.turn_from_element.is_above_chance == equivariant
    if expected:
        assert found.label_from_element.accuracy.mean == 1
        assert "**The choice gives something away** (label" in str(found)
    else:
        assert found.turn_from_element.accuracy.mean == 1 and found.choices.identity.mean == 1
        assert "does not tell the label or traces of a turn better than chance" in str(found)
    assert "may go unnoticed" not in str(found)
    unlabelled = diagnose(network(2), images, canonicalizer=chooser("C4", element_of), **UNTIMED)
    assert unlabelled.label_from_element is unlabelled.label_from_turned is unlabelled.before.accuracy is None
    assert unlabelled.leaks == [] and "no labels were given" in str(unlabelled)
    assert_same(unlabelled.before.distance.mean, found.before.distance.mean)


def test_a_choice_by_the_traces_of_a_turn_is_found():
    """It takes images for turned that are smooth, which only an interpolated turn makes of noise."""

    def is_smooth(x):
        inner = x[:, :, 8:-8, 8:-8]
        return (inner.diff(dim=3).square().mean((1, 2, 3)) < 1.7 * inner.var((1, 2, 3))).long()

    x = rand(500, 3, 25, 25)
    found = diagnose(network(3, 25), x, group="C8", canonicalizer=chooser("C8", is_smooth), worst=0, **UNTIMED)
    assert found.leaks == ["turn_from_disorder"]
    assert "traces of the turn itself" in str(found)


def test_labels_of_every_kind():
    x, model, labels = rand(12, 3, 9, 9), network(4), torch.arange(12) % 4
    found = diagnose(model, x, labels, **UNTIMED)
    sets = nn.functional.one_hot(labels, 4).bool()
    assert_same(diagnose(model, x, sets, **UNTIMED).before.accuracy.mean, found.before.accuracy.mean)
    assert (diagnose(model, x, torch.ones_like(sets), **UNTIMED).before.accuracy.mean == 1).all()
    few, fewer = labels.clone(), sets.clone()
    few[5:], fewer[5:] = -1, False
    expected = diagnose(model, x[:5], labels[:5], **UNTIMED)
    for partial in (diagnose(model, x, few, **UNTIMED), diagnose(model, x, fewer, **UNTIMED)):
        assert_same(partial.after.accuracy.mean, expected.after.accuracy.mean)
        assert_same(partial.after.accuracy.low, expected.after.accuracy.low)
        assert partial.label_from_element.count == 5 and partial.count == 12
    assert "There are 12 images of 4 kinds. A choice that gives away the label may go unnoticed" in str(found)
    nothing = diagnose(model, x, torch.full((12,), -1), **UNTIMED)
    assert nothing.before.accuracy.mean.isnan().all() and nothing.label_from_element is None
    json.dumps(nothing.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("group", "size"), [("C4", (8, 8)), ("D2", (6, 9)), ("C8", (17, 17))])
def test_maps_are_compared_after_they_are_turned_back(group, size):
    """A model that looks at one pixel at a time is equivariant; one with a filter of its own is not."""
    torch.manual_seed(0)
    pointwise, filtered = nn.Conv2d(3, 4, 1).eval(), nn.Conv2d(3, 4, 3, padding=1).eval()
    x = whole_numbers(6, *size).float() / 255
    labels = torch.arange(6 * size[0] * size[1]).reshape(6, *size) % 4
    canonicalizer = Canonicalizer(lambda rows: rows[:, :, 2:5, 2:5].flatten(1), group, vector_size=27).eval()
    options = {"representation": "trivial", "canonicalizer": canonicalizer, **UNTIMED}
    exact = exact_elements(group, size)
    found = diagnose(pointwise, x, labels, group, **options)
    for views in (found.before, found.after):
        assert (views.consistency.mean[exact] == 1).all() and (views.distance.mean[exact] < 1e-6).all()
        assert (views.accuracy.mean[exact] == views.accuracy.mean[0]).all()
        assert views.consistency.mean.min() > 0.4
    if found.exact == [True] * len(found.exact):
        with torch.no_grad():
            assert_near(found.before.accuracy.mean[0], (pointwise(x).argmax(1) == labels).double().mean())
    assert found.label_from_element is None and found.features is None
    found = diagnose(filtered, x, labels, group, **options)
    assert (found.before.distance.mean[1:] > 1e-3).all()
    assert (found.after.distance.mean[exact] == 0).all() and (found.after.consistency.mean[exact] == 1).all()
    unlabelled = labels.clone()
    unlabelled[:, ::2] = -1
    assert not diagnose(filtered, x, unlabelled, group, **options).before.accuracy.mean.isnan().any()


def test_outputs_and_features_of_every_kind():
    x, model = rand(8, 3, 9, 9), network(4)
    expected = diagnose(model, x, **UNTIMED)
    assert expected.features == "3"
    wrapped = diagnose(lambda rows: types.SimpleNamespace(logits=model(rows)), x, **UNTIMED)
    assert_same(wrapped.before.distance.mean, expected.before.distance.mean)
    assert wrapped.features is None and "no linear layer" in wrapped.notes[0]
    maps = diagnose(model, x, features="0", **UNTIMED)
    with torch.no_grad():
        upright, turned = (model[0](v).mean((2, 3)) for v in (x, x.rot90(1, (2, 3))))
    distance = (turned - upright).norm(dim=1) / (turned.norm(dim=1) + upright.norm(dim=1))
    assert maps.features == "0"
    assert_near(maps.before.feature_distance.mean[1], distance.mean(), scale=1e7)
    by_margin = diagnose(model, x, score=scores.margin, **UNTIMED)
    form = canonicalize(x, model, group="C4", score=scores.margin)
    assert by_margin.choices.identity.mean == (form.element == 0).double().mean()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_output_that_is_not_finite_is_wrong_and_far_from_all():
    model = network(3)
    x = rand(6, 3, 9, 9)
    x[0] = torch.nan
    found = diagnose(model, x, torch.arange(6) % 3, **UNTIMED)
    rest = diagnose(model, x[1:], torch.arange(1, 6) % 3, **UNTIMED)
    for name, value in (
        ("accuracy", 0),
        ("confidence", 0),
        ("consistency", 0),
        ("distance", 1),
        ("feature_distance", 1),
    ):
        expected = (value + 5 * getattr(rest.before, name).mean) / 6
        torch.testing.assert_close(getattr(found.before, name).mean[1:], expected[1:], rtol=1e-5, atol=1e-6)
    assert found.choices.tied.mean > rest.choices.tied.mean
    torch.testing.assert_close(found.choices.entropy.mean, rest.choices.entropy.mean, rtol=1e-5, atol=0)
    assert 0 in found.worst.index and found.worst.before[found.worst.index == 0].eq(-1).all()
    json.dumps(found.to_dict(), allow_nan=False)


def test_times_pictures_and_json(tmp_path):
    pytest.importorskip("matplotlib")
    x, seen = rand(7, 3, 9, 9), []
    names = ["cat", "dog", "a class with a name that is too long"]
    for group in ("C1", "D4", "C12"):
        found = diagnose(network(3), x, torch.arange(7) % 3, group, classes=names, rounds=2, batch_size=4, worst=2,
                         progress=lambda parts: seen.extend(parts) or parts)  # fmt: skip
        assert list(found.seconds) == ["model", "canonicalizer", "together", "all members"]
        assert all(0 < value < 10 for value in found.seconds.values())
        kept = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert kept == found.to_dict() and kept["classes"] == names and len(kept["elements"]) == len(kept["exact"])
        assert kept["before"]["accuracy"]["mean"] == found.before.accuracy.mean.tolist()
        assert "images" not in kept["worst"] and found.worst.images.shape == (2, 3, 9, 9)
        found.plot(tmp_path / "new" / f"{group}.png")
        assert (tmp_path / "new" / f"{group}.png").stat().st_size > 10_000
        text = str(found)
        assert "| turned by" in text and "### Time" in text
        for table in (block for block in text.split("\n\n") if block.startswith("|")):
            assert len({len(line) for line in table.splitlines()}) == 1
    assert seen == [0, 4] * 3
    untimed = diagnose(network(3), x[:1], rounds=0, worst=0)
    untimed.plot(tmp_path / "none.svg")
    assert untimed.seconds == {} and "### Time" not in str(untimed)


def test_the_same_seed_gives_the_same_figures():
    x, labels = rand(20, 3, 9, 9), torch.arange(20) % 3
    first, again = (diagnose(network(3), x, labels, batch_size=n, rounds=0).to_dict() for n in (16, 16))
    assert first == again
    other = diagnose(network(3), x, labels, batch_size=16, rounds=0, seed=1).to_dict()
    assert other["before"] == first["before"] and other["turn_from_element"] != first["turn_from_element"]


def test_what_is_refused():
    x, model = rand(4, 3, 9, 9), network(3)
    for arguments, options, error, match in [
        ((model, x[:0]), {}, ValueError, r"images: expected at least one, got \(0, 3, 9, 9\)"),
        ((model, x[0]), {}, ValueError, r"images: expected \(B, C, H, W\)"),
        ((network(3).train(), x), {}, ValueError, r"model: expected to be in eval mode; call model.eval\(\)"),
        ((network(1), x), {}, ValueError, r"expected \(4, K\) with K ≥ 2 classes, got \(4, 1\)"),
        ((nn.Conv2d(3, 2, 1).eval(), x), {"canonicalizer": Canonicalizer(network(3), "C4").eval()}, ValueError,
         r"got \(4, 2, 9, 9\); maps need representation='trivial' and a canonicalizer"),
        ((model, x), {"representation": "trivial"}, ValueError, "canonicalizer: needed with representation='trivial'"),
        ((model, x), {"representation": "trivial", "canonicalizer": Canonicalizer(network(3), "C4").eval()},
         ValueError, r"expected maps \(4, K, H, W\)"),
        ((model, x), {"representation": "regular"}, ValueError, "representation: expected one of invariant, trivial"),
        ((model, x), {"canonicalizer": Canonicalizer(network(3), "D4").eval()}, ValueError, "expected one for C4, got"),
        ((model, x), {"canonicalizer": Canonicalizer(network(3), "C4").train()}, ValueError, "to be in eval mode"),
        ((model, x), {"canonicalizer": lambda x: x}, TypeError, "expected to return a CanonicalForm, got Tensor"),
        ((model, x), {"canonicalizer": chooser("C2", lambda x: torch.zeros(len(x)).long())}, ValueError, "of C2"),
        ((model, x, torch.zeros(4)), {}, ValueError, r"labels: expected \(N,\) int64 or \(N, K\) bool for N = 4"),
        ((model, x, torch.zeros(3).long()), {}, ValueError, r"N = 4 images, got \(3,\)"),
        ((model, x, torch.full((4,), 3)), {}, ValueError, "labels: expected classes below 3, got 3"),
        ((model, x, torch.ones(4, 2).bool()), {}, ValueError, r"labels: expected 3 columns.*got \(4, 2\)"),
        ((model, x, [0] * 4), {}, TypeError, "labels: expected a Tensor, got list"),
        ((model, x), {"features": "head"}, ValueError, "features: found no module of the model with the name 'head'"),
        ((model, x), {"classes": ["a", "b"]}, ValueError, "classes: expected 3 names, one for each output, got 2"),
        ((model, x), {"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
        ((model, x, None, "E4"), {}, ValueError, "group: expected"),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            diagnose(*arguments, **options)


def test_intervals():
    """Of shares by Wilson's formula, of means by Student's; values of tables."""
    for right, count, low, high in ((8, 10, 0.4902, 0.9433), (0, 20, 0, 0.1611), (20, 20, 0.8389, 1)):
        found = shares(torch.arange(count) < right)
        assert found.mean == right / count
        assert found.low.item() == pytest.approx(low, abs=1e-4) and found.high.item() == pytest.approx(high, abs=1e-4)
    partly = shares(torch.tensor([[1.0, torch.nan], [0.0, torch.nan], [torch.nan, torch.nan]]))
    assert_same(partly.mean, torch.tensor([0.5, torch.nan], dtype=torch.float64))
    assert partly.to_dict()["high"][1] is None
    values = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    found = means(values)
    half = 2.5706 * values.double().std() / 6**0.5
    torch.testing.assert_close(found.high - found.mean, half, rtol=0.01, atol=0)
    assert means(values[:5]).low == 0 and means(values[:5]).high == 1


def test_how_often_an_interval_holds_the_truth():
    generator = torch.Generator("cpu").manual_seed(0)
    for share in (0.05, 0.5, 0.9):
        found = shares(torch.rand(40, 4000, generator=generator, device="cpu") < share)
        assert 0.92 < ((found.low <= share) & (share <= found.high)).double().mean() < 0.985


def test_what_elements_tell():
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(high, count=60):
        return torch.randint(high, (count,), generator=generator, device="cpu")

    element = draw(4)
    certain = told(element, 7 * element - 3, 4, generator)
    assert certain.accuracy.mean == 1 and certain.p_value == 0.001 and certain.is_above_chance
    assert (certain.count, certain.kinds) == (60, 4)
    assert certain.chance == torch.bincount(element).max().item() / 60
    one_class = told(element, torch.zeros(60, dtype=torch.int64), 4, generator)
    assert one_class.accuracy.mean == one_class.chance == one_class.p_value == 1 and not one_class.is_above_chance
    single = told(element[:1], element[:1], 4, generator)
    assert single.count == 1 and not single.is_above_chance
    # Targets that have nothing to do with the element: p-values are uniform, and none of this is called a leak.
    found = [told(draw(4), draw(3), 4, generator) for _ in range(20)]
    assert 4 <= sum(test.p_value <= 0.5 for test in found) <= 16
    assert not any(test.p_value <= LEVEL or test.is_above_chance for test in found)


def test_it_is_exported_as_a_function():
    assert equifast.diagnose is diagnose and callable(equifast.diagnose)
