"""examples/scores.py on logits that are made up: what is right, what differs, and what the page says about it."""

import importlib
import math
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the source tree")


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the examples by name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def found(example):
    """Two images of class 1, which one member of each shows; of the second, a member has large logits for nothing."""
    upright = torch.zeros(2, 8, 10)
    upright[:, 2, 1] = 8
    upright[1, 4] = 30 + torch.tensor([0.0] * 9 + [1.0])
    right = torch.zeros(2, 10, dtype=torch.bool)
    right[:, 1] = True
    return example("scores").Seen(upright, upright.roll(1, 1), right)


def test_accuracies_and_their_differences(example):
    runs = {run["score"]: run for run in example("scores").compared("two", found(example))}
    for view in ("C4", "C8", "C8, turned by 45°"):
        assert runs["confidence"]["accuracy"][view] == [100.0, 0.0]
        assert runs["energy"]["accuracy"][view] == [50.0, 50.0]
        assert runs["energy"]["against"][view] == [-50.0, 50.0]
    assert runs["(network alone, over all turns)"]["accuracy"]["C4"] == [25.0, 0.0]


def test_the_area_under_a_curve_is_a_share_of_pairs(example):
    values, is_true = torch.tensor([3.0, 1.0, 2.0, 2.0, 0.0]), torch.tensor([True, False, True, False, False])
    pairs = [(t > f) + (t == f) / 2 for t in (3, 2) for f in (1, 2, 0)]
    assert example("scores").area(values, is_true) == pytest.approx(100 * sum(pairs) / 6)


def test_each_image_asked_for_its_class(example):
    """Images whose class shows in one member alone, among others in which another class does."""
    logits = torch.zeros(20, 8, 10)
    labels = torch.arange(20) % 10
    logits[torch.arange(20), 5, labels] = 4
    logits[:, 1, 0] = 9  # a member looks like class 0, more than any is like its own
    right = torch.nn.functional.one_hot(labels, 10).bool()
    areas = example("scores").detection(example("scores").Seen(logits, logits, right))
    assert areas["canonical by of_class"][1:] == [100.0] * 9
    assert all(area < 100 for area in areas["canonical by confidence"][1:])
    assert set(map(len, areas.values())) == {10}


def test_the_picture_has_orbits_that_are_chosen_differently(example, tmp_path, monkeypatch):
    picture = example("scores_picture")
    monkeypatch.setattr(picture, "PICTURE", tmp_path / "scores.png")
    seen, images = found(example), torch.rand(2, 3, 16, 16)
    rows = picture.rows((images, seen))
    assert len(rows) == 1 and rows[0].values["confidence"].argmax() == 1 and rows[0].values["energy"].argmax() == 2
    assert torch.equal(rows[0].members[0], images[1])
    assert picture.draw(rows, publish=False).stat().st_size > 1000


def test_the_page_is_written_from_the_results(example):
    published = example("published")
    results = published.load("scores")
    page = published.PAGE.read_text()
    assert published.insert(page, "scores", example("scores").text(results)) == page
    values = [pair for run in results["runs"] for pair in run["accuracy"].values()]
    assert values and all(0 <= value <= 100 and error > 0 and not math.isnan(error) for value, error in values)
