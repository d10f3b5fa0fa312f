"""The photo album, on photographs that are made here, by a detector of faces that are red above and green below."""

import importlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the source tree")

SIZE = 64
LANDMARKS = torch.tensor([[0.3, 0.2], [0.25, 0.8], [0.5, 0.45], [0.75, 0.3], [0.8, 0.7]])  # y, x; shares of a face


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the examples by name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


class Detector(nn.Module):
    """Stands in for CenterFace. A face is 8×8 pixels on the grid of the maps, its centre a corner of four places."""

    def forward(self, x):
        red, green = (F.pad(F.avg_pool2d(x[:, c : c + 1] / 255, 4), (1, 0, 1, 0)) for c in (0, 1))
        heat = red[..., :-1, :-1] * red[..., :-1, 1:] * green[..., 1:, :-1] * green[..., 1:, 1:]
        ones = torch.ones_like(heat)
        sizes, offsets = ones.expand(-1, 2, -1, -1) * 2.0, ones.expand(-1, 2, -1, -1) * -0.5
        return heat, sizes.log(), offsets, ones * LANDMARKS.view(1, 10, 1, 1)


def photograph(size, *faces):
    """An upright one, (3, H, W), with faces at (y, x)."""
    pixels = torch.zeros(3, *size, dtype=torch.uint8)
    for y, x in faces:
        pixels[0, y : y + 4, x : x + 8] = 255
        pixels[1, y + 4 : y + 8, x : x + 8] = 255
    return pixels


@pytest.fixture
def album(example):
    """Sizes are mixed, none is square; two photographs are stored the wrong way, and one has no face."""
    upright = {
        "a": (0, photograph((48, 64), (4, 8), (24, 40))),
        "b": (90, photograph((64, 40), (16, 16))),
        "c": (180, photograph((32, 64), (12, 32))),
        "d": (0, photograph((64, 56))),
    }
    photo = example("data").Photograph
    return [photo(name, pixels.rot90(angle // 90, (1, 2)), angle) for name, (angle, pixels) in upright.items()]


def test_every_face_is_found_at_every_angle(example, album):
    album_module = example("album")
    found = album_module.views(album, Detector(), SIZE)
    alone, canonical = (album_module.results(found, name, SIZE) for name in ("alone", "canonical"))
    assert canonical.found == [4, 4, 4, 4] and max(canonical.error) < 1e-5
    assert alone.found == [4, 0, 0, 0]
    for element, view in enumerate(found):
        assert [each.element for each in view[:3]] == [element] * 3
        assert [each.tied for each in view] == [False, False, False, True] and view[3].element == 0
    table = album_module.table(found, alone, canonical)
    assert "4 photographs, 4 faces on 3 of them" in table and "1 photographs have no face" in table
    rows = album_module.index(album, found).split("\n")[1:]
    assert [row.split() for row in rows] == [["b", "90°", "90°"], ["c", "180°", "180°"]]


def test_faces_are_carried_back_into_the_photographs_as_they_are_stored(example, album):
    album_module = example("album")
    shown = album_module.shown(album, album_module.views(album, Detector(), SIZE), SIZE)
    assert [each.photograph.name for each in shown] == ["a", "b", "c"]
    for each in shown:
        assert len(each.canonical.boxes) == len(each.canonical.points) > 0
        for box, points in zip(each.canonical.boxes.round().int().tolist(), each.canonical.points, strict=True):
            x1, y1, x2, y2 = box
            face = each.photograph.pixels[:, y1:y2, x1:x2]
            assert face.shape == (3, 8, 8) and (face.amax(0) == 255).all()
            # The first landmark of this face is red, the last one green, whichever way it lies.
            for c, point in ((0, points[0]), (1, points[4])):
                x, y = point.round().int().tolist()
                assert each.photograph.pixels[c, y, x] == 255


@pytest.mark.parametrize("name", ["draw", "draw_silhouettes"])
def test_pictures_of_the_album(example, album, tmp_path, name):
    image = pytest.importorskip("PIL.Image")
    album_module = example("album")
    shown = album_module.shown(album, album_module.views(album, Detector(), SIZE), SIZE)
    path = tmp_path / "new" / "album.png"
    getattr(example("album_picture"), name)(path, shown, [4, 0, 0, 0], [4] * 4)
    with image.open(path) as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert ((255, 0, 0) in [colour for _, colour in colours]) == (name == "draw")  # pixels of a photograph


def test_faces_are_put_upright_with_their_photograph(example, album):
    album_module, picture = example("album"), example("album_picture")
    shown = album_module.shown(album, album_module.views(album, Detector(), SIZE), SIZE)
    for each, (y, x) in zip(shown[1:], ((16, 16), (12, 32)), strict=True):
        upright, size = picture._upright(each.canonical, each.photograph.pixels.shape[1:], each.element)
        assert upright.boxes.tolist() == [[x, y, x + 8, y + 8]]
        torch.testing.assert_close(upright.points[0], LANDMARKS.flip(1) * 8 + torch.tensor([x, y]) - 0.5)
        assert size == each.photograph.pixels.rot90(-each.element, (1, 2)).shape[1:]


@pytest.mark.parametrize("height, width", [(40, 64), (61, 37), (30, 128), (7, 300)])
def test_the_square_of_a_turned_photograph_is_the_turned_square(example, height, width):
    of = example("letterbox").Letterbox.of
    pixels = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) * 255
    upright = of([pixels], SIZE).images
    assert upright.shape == (1, 3, SIZE, SIZE) and upright.any()
    for k in range(1, 4):
        turned = of([pixels.rot90(k, (1, 2))], SIZE).images
        torch.testing.assert_close(turned, upright.rot90(k, (2, 3)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("factor", [1, 2])
def test_what_is_on_the_square_is_found_on_the_photograph(example, factor):
    pixels = photograph((40, 64), (8, 24))
    square = example("letterbox").Letterbox.of([pixels.to(torch.float64), pixels], SIZE * factor)
    rows, columns = (square.images[1].amax(0) > 127).nonzero(as_tuple=True)
    box = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))[None].float()
    boxes, points = square.back(box, box.view(1, 2, 2) - 0.5, 1)
    assert boxes.tolist() == [[24, 8, 32, 16]]
    assert points.tolist() == [[[23.5, 7.5], [31.5, 15.5]]]


def test_overlap_is_the_share_of_the_union(example):
    boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0], [2.0, 0.0, 6.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    expected = torch.tensor([[1, 1 / 3, 0], [1 / 3, 1, 1 / 2], [0, 1 / 2, 1]])
    torch.testing.assert_close(example("faces").overlap(boxes, boxes), expected)
    assert example("faces").overlap(boxes, boxes[:0]).shape == (3, 0)


def test_of_faces_that_overlap_the_surer_is_kept(example):
    faces = example("faces")
    maps = torch.zeros(1, faces.CHANNELS, 8, 8)
    maps[0, 0, 2, 2], maps[0, 0, 2, 4], maps[0, 0, 6, 6], maps[0, 0, 0, 7] = 0.6, 0.9, 0.5, faces.LEAST
    maps[0, 1:3] = torch.tensor(4.0).log()  # 16 pixels
    (found,) = faces.decode(maps.flatten(1))
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.5]))
    assert found.boxes.tolist() == [[10.0, 2.0, 26.0, 18.0], [18.0, 18.0, 34.0, 34.0]]
    torch.testing.assert_close(faces.certainty(maps.flatten(1)), torch.tensor([1.4]))
