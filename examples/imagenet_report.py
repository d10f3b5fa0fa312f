"""What the ImageNet example found: a table, the sentences that follow from it, and a picture."""

import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import published

PICTURE = Path("pictures/imagenet.png")
ANGLES = ("0°", "90°", "180°", "270°")
MEAN, ALONE = "mean of the 4 outputs", "alone"
NOTE = """\
Accuracy in percent by the angle of the pictures. Upright: share of the upright pictures that the method leaves as they
are. ms: CPU time for one picture, medians of runs that took turns. Every picture was judged by functions that
were not trained on it, nor on another of the same name.\
"""


def text(results: dict) -> str:
    """All of it in Markdown."""
    lead = (
        f"{results['stamps']} cut-outs on white for training, {results['steps']} steps for the small network, "
        f"{results['threads']} threads."
    )
    return "\n\n".join([lead, _accuracies(results), NOTE, findings(results)])


def _accuracies(results: dict) -> str:
    rows, before = [], None
    for run in results["runs"]:
        group = (run["network"], run["data"])
        head = group if group != before else ("", "")
        upright = f"{run['upright']:.1f}" if "upright" in run else "–"
        numbers = [f"{value:.1f}" for value in run["accuracy"]]
        ms = f"{results['ms'][run['network']][run['method']]:.1f}"
        rows.append([run["method"], *head, *numbers, f"{over_angles(run):.1f}", upright, ms])
        before = group
    return published.table(["", "network", "pictures", *ANGLES, "mean", "upright", "ms"], rows)


def over_angles(run: dict) -> float:
    """Mean accuracy over the angles."""
    return statistics.fmean(run["accuracy"])


def groups(results: dict) -> dict[tuple[str, str], dict[str, float]]:
    """Mean accuracy over the angles by method, for each network and data set."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for run in results["runs"]:
        found.setdefault((run["network"], run["data"]), {})[run["method"]] = over_angles(run)
    return found


def findings(results: dict) -> str:
    """Sentences, each computed from the table."""
    lines = []
    for (network, pictures), by_method in groups(results).items():
        rival = by_method[MEAN]
        ahead = {name: value for name, value in by_method.items() if name not in (MEAN, ALONE) and value > rival}
        behind = {name: value for name, value in by_method.items() if name not in (MEAN, ALONE) and value < rival}
        said = [f"{network} on {pictures}: the mean has {rival:.1f} %, and the network alone {by_method[ALONE]:.1f} %"]
        if ahead:
            said.append("canonicalization is ahead of the mean by " + _listed(ahead, rival))
        if behind:
            said.append("averaging beats canonicalization by " + _listed(behind, rival))
        if not ahead and not behind:
            said.append("canonicalization has the same")
        lines.append("* " + "; ".join(said) + ".")
    for network, ms in results["ms"].items():
        dearest, small = (ms[method] / ms[ALONE] for method in (MEAN, "small network, trained"))
        lines.append(
            f"* {network} takes {ms[ALONE]:.1f} ms alone. The mean takes {dearest:.2f} times as long, as does all that "
            f"needs the four outputs. With the small network, which chooses first, it takes {small:.2f} times."
        )
    return "\n".join(lines)


def _listed(values: dict[str, float], rival: float) -> str:
    return ", ".join(f"{abs(value - rival):.1f} (*{name}*)" for name, value in values.items())


def draw(results: dict, path: Path = PICTURE) -> None:
    """Accuracy over cost, a panel for each network and data set; small points are the single angles."""
    panels = groups(results)
    networks = list(results["ms"])
    columns = len(panels) // len(networks)
    figure, axes = plt.subplots(
        len(networks), columns, figsize=(5 * columns, 4 * len(networks)), layout="constrained", squeeze=False
    )
    for axis, ((network, pictures), by_method) in zip(axes.flat, panels.items(), strict=True):
        for number, (method, value) in enumerate(by_method.items()):
            ms = results["ms"][network][method]
            single = [run["accuracy"] for run in results["runs"] if _is(run, network, pictures, method)]
            axis.scatter([ms] * 4, single[0], s=12, color=f"C{number}", alpha=0.4)
            axis.scatter(ms, value, s=70, color=f"C{number}", label=method)
        axis.set(title=f"{network}, {pictures}", xlabel="ms for one picture", ylabel="accuracy (%)", ylim=(0, 100))
        axis.set_xlim(left=0)
    axes.flat[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _is(run: dict, network: str, pictures: str, method: str) -> bool:
    return (run["network"], run["data"], run["method"]) == (network, pictures, method)
