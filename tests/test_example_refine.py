"""The examples of searches and averages, on a few small pictures, with networks that have hardly learned anything."""

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

import equifast

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the source tree")


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the examples by name."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def test_the_score_to_learn_has_one_maximum(example):
    refine = example("refine")
    angles = torch.linspace(-torch.pi, torch.pi, 361)
    scores = refine.target(angles)
    assert scores.argmax() == 180 and scores[180] == 1
    assert (scores[:181].diff() > 0).all() and (scores[180:].diff() < 0).all()
    # So the best of C8 is next to it, wherever an image is.
    assert torch.equal(refine.apart(torch.tensor([-350.0, 10, 180, 190])), torch.tensor([10.0, 10, 180, 170]))


def test_no_turn_cuts_anything_off_a_picture(example):
    refine = example("refine")
    at = torch.arange(128) - 63.5
    outside = (at.square() + at[:, None].square()).sqrt() > 65
    for height, width in ((96, 96), (97, 60), (50, 111)):
        square = refine.squared(torch.zeros(3, height, width))
        assert square.shape == (1, 3, 128, 128) and square.amin() < 1 and (square[0, 0][outside] > 250).all()
        torch.testing.assert_close(square, square.rot90(2, (2, 3)))


def test_rows_tables_and_the_picture(example, tmp_path, monkeypatch):
    refine, published = example("refine"), example("published")
    monkeypatch.setattr(refine, "TURNS", 2)
    pages = refine.pages(3, seed=0)
    module = refine.trained(pages, steps=2, batch=4)
    rows = refine.measured("pages", module, pages[:2])
    evaluated = [(row["from"], row["rounds"], row["evaluated"]) for row in rows]
    assert evaluated == [(8, 0, 8), (8, 2, 12), (8, 4, 16), (8, 6, 20), (32, 4, 40), (512, 0, 512)]
    for row in rows:
        assert 0 <= row["median"] <= row["ninety"] <= 180 and 0 <= row["within"] <= row["two"] <= 100
    assert all(0 <= row["same"] <= row["near"] <= 100 for row in rows[3:5])
    text = refine.text({"runs": rows, "pictures": 2, "threads": 1})
    assert text.startswith("| ") and "pages, from C512" in text and "in 1/" in text
    published.insert("<!-- refine -->\n<!-- end of refine -->", "refine", text)
    example("refine_picture").draw(tmp_path / "refine.png", module, pages[:2])
    assert (tmp_path / "refine.png").stat().st_size > 1000


def test_a_trained_network_is_asked_for_what_it_has_learned(example):
    """A score that knows the angle: every turn comes back within a step, and the grid finds the same."""
    refine = example("refine")

    class Knowing(nn.Module):
        def forward(self, rows):
            return rows.mean(1).mul(torch.linspace(-1, 1, rows.shape[3])).sum((1, 2))[:, None]

    at = torch.arange(128) - 63.5
    spot = 255 - 255 * torch.exp(-((at - 25).square() + at[:, None].square()) / 400)
    images = spot.expand(2, 3, 128, 128).contiguous()
    module = equifast.nn.Canonicalizer(Knowing(), "C8", score=lambda v: -v[:, 0], preprocess=refine.shrink, refine=5)
    x, angles = refine.turned(images, refine.CAMERA, torch.tensor([370, 2222]))
    found = refine.degrees(module(x)) - refine.degrees(module(images))
    assert (refine.apart(found - angles.rad2deg()) <= 360 / 256 * 1.25).all()


def test_averages_along_a_turn(example, tmp_path):
    average = example("average")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))
    digits, labels = torch.rand(3, 1, 12, 12), torch.tensor([2, 0, 9])
    found = average.curves(network.eval(), digits, labels, angles=6)
    again = average.curves(network, digits.rot90(1, (2, 3)), labels, angles=6)
    assert list(found) == list(average.WAYS)
    for name, values in found.items():
        assert values.shape == (6, 3) and (values >= 0).all() and (values <= 1).all(), name
        torch.testing.assert_close(values, again[name])
    runs = [{"name": name, "members": 4, **average.summary(values)} for name, values in found.items()]
    assert "runs of the model" in average.text({"runs": runs, "digits": 3, "angles": 6})
    average.draw(tmp_path / "average.png", found)
    assert (tmp_path / "average.png").stat().st_size > 1000
