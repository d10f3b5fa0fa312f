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


def test_a_canonicalizer_is_trained_once_and_then_read(example, monkeypatch, tmp_path, capsys):
    stored, mnist = example("trained"), example("mnist")
    monkeypatch.setattr(stored, "FOLDERS", tmp_path)
    images, labels = torch.rand(40, 1, 28, 28), torch.zeros(40, dtype=torch.int64)
    digits = example("data").LabelledImages(images, labels, images, labels, "noise")
    calls, train = [], mnist.train
    monkeypatch.setattr(mnist, "train", lambda *args: calls.append(args) or train(*args[:2], steps=2, batch=8))
    first, said = stored.digits(digits, 2)
    assert said.startswith("trained on upright ones for") and len(calls) == 1
    read, said = stored.digits(digits, 2)
    assert said.startswith("trained before, read in") and len(calls) == 1 and not read.training
    with torch.no_grad():
        assert torch.equal(read(images).vectors, first(images).vectors)
    stored.digits(digits, 3)
    anew, _ = stored.digits(digits, 2, retrain=True)
    assert len(calls) == 3 and not torch.equal(anew.reference, first.reference)
    # A folder that a kill left unfinished is no canonicalizer, nor is one of another network.
    (stored.folder(digits, 2) / "config.json").unlink()
    stored.digits(digits, 2)
    monkeypatch.setattr(
        mnist, "small_network", lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 64))
    )
    stored.digits(digits, 2)
    assert len(calls) == 5 and "does not fit any more" in capsys.readouterr().out


def test_bars(example, tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    example("bars").draw(tmp_path / "new" / "bars.png", "% right", ["0°", "90°"], [90.0, 0.0], [90.0, 90.0])
    with image.open(tmp_path / "new" / "bars.png") as picture:
        assert picture.size == (700, 400)
