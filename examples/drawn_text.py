"""Lines and pages of text drawn from fonts: pictures of our own, whose text is known."""

import calendar
import random
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FONTS = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans:bold", "DejaVu Serif:bold")
CITIES = (
    "Accra", "Bergen", "Bogota", "Cairo", "Dakar", "Delhi", "Galway", "Hanoi", "Havana", "Izmir", "Kyoto", "Lagos",
    "Lima", "Lisbon", "Malmo", "Manila", "Mumbai", "Nairobi", "Oslo", "Porto", "Prague", "Quito", "Riga", "Rome",
    "Seoul", "Sofia", "Sydney", "Tartu", "Tokyo", "Turin", "Vienna", "Warsaw", "Zagreb",
)  # fmt: skip
MONTHS = tuple(calendar.month_name)[1:]


class Lines(NamedTuple):
    """Images of one line each, RGB from 0 to 255 (N, 3, 48, 320), and what is written on them."""

    images: Tensor
    texts: list[str]


def lines(number: int, seed: int = 0) -> Lines:
    """Places and dates, such as on the backs of photographs, in several fonts."""
    rng = random.Random(seed)
    texts = [_text(rng) for _ in range(number)]
    return Lines(torch.stack([_line(text, FONTS[i % len(FONTS)]) for i, text in enumerate(texts)]), texts)


def pages(number: int, seed: int = 1) -> list[Tensor]:
    """Pages of 12 to 24 lines, RGB (3, H, W), of several sizes, none of them square."""
    rng = random.Random(seed)
    return [_page(rng, FONTS[i % len(FONTS)]) for i in range(number)]


def _text(rng: random.Random) -> str:
    return f"{rng.choice(CITIES)}, {rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(1920, 2020)}"


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont(name), size)


def _line(text: str, font: str) -> Tensor:
    picture = Image.new("RGB", (320, 48), "white")
    draw, size = ImageDraw.Draw(picture), 30
    while draw.textlength(text, _font(font, size)) > 308:
        size -= 1
    draw.text((6, 24), text, fill="black", font=_font(font, size), anchor="lm")
    return _tensor(picture)


def _page(rng: random.Random, font: str) -> Tensor:
    height, count = rng.randrange(500, 700, 2), rng.randint(12, 24)
    width = 2 * round(height / 1.41 / 2)
    picture, pitch = Image.new("RGB", (width, height), "white"), (height - 60) / count
    draw, face = ImageDraw.Draw(picture), _font(font, round(min(15.0, pitch * 0.75)))
    for i in range(count):
        draw.text((36, 36 + i * pitch), f"{_text(rng)}. {_text(rng)}."[: rng.randint(16, 32)], fill="black", font=face)
    return _tensor(picture)


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32)).permute(2, 0, 1)
