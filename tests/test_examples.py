"""The examples' own code, on noise: the eager path, training, the table, the picture."""

import importlib
from pathlib import Path

import pytest
import torch

import equifast

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the source tree")


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the examples by name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_eager_path_equals_canonicalize(example, group):
    timing = example("timing")
    x = torch.rand(5, 2, 6, 6)

    def network(rows):
        return rows.flatten(1)

    def score(vectors):
        return vectors @ torch.linspace(-1, 1, 72)

    expected = equifast.canonicalize(x, network, None, group=group, score=score)
    assert expected.element.any()
    assert torch.equal(timing.eager(x, network, score, equifast.as_group(group)), expected.image)


def test_compare_refuses_other_images(example, monkeypatch):
    timing = example("timing")
    module = equifast.nn.Canonicalizer(torch.nn.Flatten(), "C4", reference=torch.randn(16)).eval()
    times = timing.compare(module, torch.rand(4, 1, 4, 4), rounds=1)
    assert all(value > 0 for value in times)
    monkeypatch.setattr(timing, "eager", lambda x, *rest: x + 1)
    with pytest.raises(RuntimeError, match="4 of 4 differ"):
        timing.compare(module, torch.rand(4, 1, 4, 4), rounds=1)


def test_table_lines_up(example):
    tables, timing = example("table"), example("timing")
    times = timing.Times(12.345, 1.5, 0.25, 12.0)
    alone = tables.Row("digit CNN alone", [99.05, 15.85, 35.34, 14.28, 38.6])
    within = tables.Row("+ equifast C4, trained", [100.0] * 5, 0.9934, times)
    title, *lines = tables.table("10 digits", [alone, within]).split("\n")
    assert title == "10 digits"
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= 120
    assert "41.13" in lines[1] and lines[1].count("–") == 5
    assert lines[2].split()[-5:] == ["0.993", "12.35", "1.50×", "0.250", "12.00×"]


def test_picture(example, tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    figure = example("figure")
    pixels = torch.rand(8, 8, 3).numpy()
    row = figure.Example(pixels, pixels, [pixels] * 4, [0.1, 0.9, 0.2, -1.0], 1, "90° · wrong ✗", "drum ✓")
    part = figure.Part("scored", "accuracy", [row], [90, 70, 60, 55, 85], [85] * 5)
    figure.draw(tmp_path / "new" / "picture.png", [part, part])
    with image.open(tmp_path / "new" / "picture.png") as picture:
        assert picture.size == (1920, 1080)


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_a_canonicalizer_of_digits_trains_and_serves_another_group(example, group):
    """The demo's second part, on noise: build, train, then take both parts over to a subgroup."""
    mnist = example("mnist")
    torch.manual_seed(0)
    images = torch.rand(64, 1, 28, 28)
    learned = mnist.canonicalizer("D4")
    before = learned.reference.detach().clone()
    mnist.train(learned, images, steps=2, batch=16)
    assert not torch.equal(learned.reference, before)
    module = mnist.canonicalizer(group, learned.network, learned.reference).eval()
    assert torch.equal(module.reference, learned.reference)
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    labels = torch.arange(64) % 10
    upright = mnist.accuracy(classifier, images, labels, module)[0]
    assert mnist.accuracy(classifier, images.rot90(1, (2, 3)), labels, module)[0] == upright


def test_bars(example, tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    example("bars").draw(tmp_path / "new" / "bars.png", "% right", ["0°", "90°"], [90.0, 0.0], [90.0, 90.0])
    with image.open(tmp_path / "new" / "bars.png") as picture:
        assert picture.size == (700, 400)
