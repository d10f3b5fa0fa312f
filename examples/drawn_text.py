"""Lines and pages of text drawn here, in the font that matplotlib brings: pictures of our own, whose text is known."""

import calendar
import random
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FONT = "DejaVu Sans"
# None begins with an I, which looks like an l in this font.
CITIES = (
    "Accra", "Bergen", "Bogota", "Cairo", "Dakar", "Delhi", "Galway", "Hanoi", "Havana", "Kyoto", "Lagos", "Lima",
    "Lisbon", "Malmo", "Manila", "Mumbai", "Nairobi", "Oslo", "Porto", "Prague", "Quito", "Riga", "Rome", "Seoul",
    "Sofia", "Sydney", "Tartu", "Tokyo", "Turin", "Vienna", "Warsaw", "Zagreb",
)  # fmt: skip
DAYS = tuple(calendar.day_name)


class Lines(NamedTuple):
    """Images of one line each, RGB from 0 to 255 (N, 3, 48, 320), and what is written on them."""

    images: Tensor
    texts: list[str]


def lines(number: int, seed: int = 0) -> Lines:
    """Departures, such as on a board of a railway station."""
    rng = random.Random(seed)
    texts = [_text(rng) for _ in range(number)]
    return Lines(torch.stack([_line(text) for text in texts]), texts)


def pages(number: int, seed: int = 1) -> list[Tensor]:
    """Pages of 12 to 24 lines, RGB (3, H, W), of several sizes, none of them square."""
    rng = random.Random(seed)
    return [_page(rng) for _ in range(number)]


def _text(rng: random.Random) -> str:
    return f"{rng.choice(DAYS)} {rng.randrange(24):02}:{rng.randrange(60):02} to {rng.choice(CITIES)}"


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont(FONT), size)


def _line(text: str) -> Tensor:
    picture = Image.new("RGB", (320, 48), "white")
    draw, size = ImageDraw.Draw(picture), 30
    while draw.textlength(text, _font(size)) > 308:
        size -= 1
    draw.text((6, 24), text, fill="black", font=_font(size), anchor="lm")
    return _tensor(picture)


def _page(rng: random.Random) -> Tensor:
    height, count = rng.randrange(500, 700, 2), rng.randint(12, 24)
    width = 2 * round(height / 1.41 / 2)
    picture, pitch = Image.new("RGB", (width, height), "white"), (height - 60) / count
    draw, face = ImageDraw.Draw(picture), _font(round(min(15.0, pitch * 0.75)))
    for i in range(count):
        draw.text((36, 36 + i * pitch), f"{_text(rng)}. {_text(rng)}."[: rng.randint(16, 32)], fill="black", font=face)
    return _tensor(picture)


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32)).permute(2, 0, 1)
