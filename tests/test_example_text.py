"""Upside-down text, with stand-ins for both networks that see how dark the parts of an image are."""

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the source tree")

ALPHABET = ["", "a", "b", "c"]


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the examples by name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


class Recognizer(nn.Module):
    """A character is a black bar of 8 columns in the upper half: one, two or three quarters of it are a, b or c."""

    def forward(self, x):
        ink = 1 - x[:, 0, :24].unflatten(2, (-1, 8)).mean((1, 3)) / 255  # [N, T]
        kind = (4 * ink).round().long()
        return torch.where(nn.functional.one_hot(kind, 4).bool(), 0.7 + 0.1 * ink[..., None], 0.05)


def line(text):
    image = torch.full((3, 48, 64), 255.0)
    for t, character in enumerate(text):
        image[:, : 6 * ALPHABET.index(character.strip()), 8 * t : 8 * t + 8] = 0
    return image


class Pages(nn.Module):
    """Tells where the dark edge of a page is: above, on the right, below or on the left, as classes turn clockwise."""

    def forward(self, x):
        edges = x[:, 0, :20], x[:, 0, :, -20:], x[:, 0, -20:], x[:, 0, :, :20]
        return torch.stack([-edge.mean((1, 2)) / 9 for edge in edges], 1).softmax(1)


def page(height, width):
    image = torch.full((3, height, width), 255.0)
    image[:, : height // 3] = 0
    return image


def test_places_without_a_character_or_with_the_same_again_are_not_read(example):
    text = example("text")
    indices = torch.tensor([[0, 1, 1, 0, 1, 2, 3, 0], [0] * 8])
    probability = torch.tensor([[0.9, 0.5, 0.1, 0.9, 0.7, 0.8, 1.0, 0.9], [0.9] * 8])
    vectors = torch.cat((probability, indices.float()), 1)
    assert text.read(vectors, ALPHABET) == ["aabc", ""]
    torch.testing.assert_close(text.certainty(vectors), torch.tensor([0.75, 0.0]))


def test_lines_are_read_alike_both_ways(example):
    text = example("text")
    texts = ["abc", "cab a", "bcbcb", "c"] * 3 + ["ab"]  # more than one batch
    images = torch.stack([line(text) for text in texts])
    views = [text.transcribe(images.rot90(k, (2, 3)), text.Reader(Recognizer()), ALPHABET) for k in (0, 2)]
    written = [written.replace(" ", "") for written in texts]
    results = text.results(views, [written] * 2)
    assert results == text.Results([100, 0], [100, 100])


def test_pages_are_oriented_by_the_network_that_tells_how_they_lie(example):
    text = example("text")
    pages = [page(48, 36), page(50, 64), page(31, 47)] * 4
    views = [text.orientations([each.rot90(k, (1, 2)) for each in pages], Pages()) for k in range(4)]
    results = text.results(views, [[k] * len(pages) for k in range(4)])
    assert results.alone == results.canonical == [100] * 4


def test_shares_are_of_each_view(example):
    text = example("text")
    views = [(["a", "b"], ["a", "c"]), (["x", "y"], ["a", "b"])]
    results = text.results(views, [["a", "b"], ["a", "b"]])
    assert results == text.Results([100, 0], [50, 100])
    table = text.table(results, text.Results([25] * 4, [75] * 4)).split("\n")
    assert len({len(row) for row in table}) == 1
    assert [row.split()[-4:] for row in table[1:]] == [
        ["100.0", "–", "0.0", "–"],
        ["50.0", "–", "100.0", "–"],
        ["25.0"] * 4,
        ["75.0"] * 4,
    ]


def test_drawn_lines_and_pages(example):
    drawn = example("drawn_text")
    lines = drawn.lines(9)
    assert lines.images.shape == (9, 3, 48, 320) and len(set(lines.texts)) == 9
    assert torch.equal(lines.images, drawn.lines(9).images)
    ink = lines.images < 128
    assert ink.flatten(1).any(1).all() and not ink[..., :3].any() and not ink[..., -3:].any()
    for page in drawn.pages(5):
        assert page.shape[1] > page.shape[2] and 0.02 < (page < 128).float().mean() < 0.3
        assert not (page < 128)[:, :, -5:].any()


def test_the_picture_of_text(example, tmp_path):
    image = pytest.importorskip("PIL.Image")
    text, drawn = example("text"), example("drawn_text")
    lines = drawn.lines(6)
    results = text.Results([100, 0], [100, 100]), text.Results([25] * 4, [75] * 4)
    path = tmp_path / "new" / "text.png"
    example("text_picture").draw(path, lines, (["", *"abcde"], lines.texts), results[0], drawn.pages(4), results[1])
    with image.open(path) as picture:
        assert picture.size == (1400, 620)
