"""Digits drawn from a font, in the format of MNIST: for a picture that may be published without any of its images."""

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

EDGE, BOX = 28, 20  # pixels: of an image, and of the box that a digit fills in it
SCALE = 8


def digits(text: str, mean: float = 0.1307, deviation: float = 0.3081) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28), standardized, and their labels (N,), of a string of digits."""
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), BOX * SCALE)
    pixels = np.stack([_draw(digit, font) for digit in text])[:, None]
    return (torch.from_numpy(pixels) - mean) / deviation, torch.tensor([int(digit) for digit in text])


def _draw(digit: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """White on black, (28, 28) in [0, 1], centred."""
    canvas = Image.new("L", (EDGE * SCALE, EDGE * SCALE))
    ImageDraw.Draw(canvas).text((EDGE * SCALE / 2,) * 2, digit, fill=255, font=font, anchor="mm")
    small = canvas.resize((EDGE, EDGE), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.float32) / 255
