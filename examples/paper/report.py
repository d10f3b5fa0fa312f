"""The page `docs/does_it_work.md` and its plots, from stored results alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.harness.report import table

from . import claims, plots
from .methods import METHODS
from .plan import DATA, FULL, GROUPS, QUICK
from .storage import Store
from .summary import Cell, Found, Mean, Result, cells, training_seconds

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "does_it_work.md"

#: Packages whose versions the page tells.
PACKAGES = ("torch", "equiadapt", "kornia")

INTRODUCTION = """# Does it work?

Written by `python -m paper --report` from the results in `examples/paper/results`; edits here will be lost.
`make paper` repeats the experiments of the paper (arXiv 2405.14089) on all of MNIST and Fashion-MNIST, which can be
fetched from package registries; the paper's own data sets cannot. [On real pictures](real_pictures.md) tells what
canonicalization does for pretrained networks on photographs, and `make demo` shows it on faces and on text.
"""

COLUMNS = """*Vanilla*: the classifier alone, trained on upright images. *Augmentation*: the same classifier, trained
further on images that are moved by random elements of the group. *EquiAdapt*, the direct method: an equivariant
network chooses the element that is undone before the classifier. *EquiOptAdapt*: any network scores the orbit. Both
canonicalizers see upright training images only, and no labels. The prior asks for the identity on every one of them,
so it is the prior that tells what upright means; EquiOptAdapt has a contrastive term, too, and no artifact loss, as
in the published configuration. *EquiOptAdapt, moved* isn't in the paper: it sees these images moved by random
elements, and the prior asks for that element. For C4 and D4 that is the same. With C8 a network that sees upright
images only may learn that the sharp member is the upright one, because members that are turned by 45° are
interpolated.

*Frozen*: the classifier is the upright one, as it was. *Tuned*: classifier and canonicalizer are trained together for
one epoch more, on upright images (vanilla: the classifier alone). All start from the same upright classifier of their
seed, and augmentation gets as many further epochs as a canonicalizer and its tuning. The learning rate of each
canonicalizer is the best of three, and the scorer the cheapest of three that scored alike; both were judged by the
identity metric on test images of MNIST with C4. So these figures are a little too good there.

* *accuracy*: on upright test images; *group average*: on test images moved by every element of the group; percent.
* *identity*: share of upright test images that the canonicalizer leaves as they are.
* *error*: equivariance error, the share of class probability that a move takes to other classes; 0 is exact.
* *parameters*: of everything that runs.
* *step*: milliseconds of a training step of 256 images.
* *training*: seconds of all steps beyond the upright classifier; in the row of that classifier, of its own.
* *inference*: milliseconds for one image, in batches of 256.

Means over seeds, with the standard deviation of one seed. Times are measured apart from these trainings: all methods
with one group took turns, on MNIST, and the deviation is that of one round.
"""


def published() -> list[Result]:
    """The results that the page is made of: those of the full form, or of the quick one where there are none."""
    return Store(FULL.name).all() or Store(QUICK.name).all()


def write(results: list[Result], docs: Path = DOCS) -> None:
    """Write the page, and those plots that there are results for."""
    docs.mkdir(exist_ok=True)
    found, curves = cells(results), [result for result in results if result["kind"] == "curve"]
    if found:
        plots.angles(docs / "accuracy_by_angle.png", found)
    if curves:
        plots.identity(docs / "identity_over_time.png", curves)
    (docs / PAGE).write_text(page(results))


def page(results: list[Result]) -> str:
    found, curves = cells(results), [result for result in results if result["kind"] == "curve"]
    parts = [INTRODUCTION, conditions(results)]
    parts += ["## What the runs say of the claims\n", claims.text(found, curves)]
    parts += ["## What was run\n", COLUMNS]
    if found:
        parts.append("![Accuracy at each element of the group, for all methods](accuracy_by_angle.png)\n")
        parts.append("A bar before an angle means that the image is reflected, then turned.\n")
    for data in DATA:
        for group in GROUPS:
            some = [cell for cell in found.values() if (cell.data, cell.group) == (data, group)]
            if some:
                parts += [f"### {plots.TITLES[data]}, {group}\n", methods_table(some, found)]
    if curves:
        parts += ["## Identity metric against time\n", claims.CURVES]
        parts.append("![Identity metric against training time](identity_over_time.png)\n")
        parts.append(claims.curves_table(curves))
    return "\n".join(parts).rstrip() + "\n"


def conditions(results: list[Result]) -> str:
    """Where and how all this was measured: each machine, number of threads and version that occurs."""

    def all_of(name: str) -> str:
        return ", ".join(sorted({str(result["conditions"][name]) for result in results}))

    if not results:
        return "**Nothing has been run.**\n"
    seeds = len({result["seed"] for result in results})
    latest = max((result["conditions"] for result in results), key=lambda found: found["date"])
    packages = [f"{name} {latest['packages'][name]}" for name in PACKAGES if name in latest["packages"]]
    parts = [f"{len(results)} results, {seeds} {'seed' if seeds == 1 else 'seeds'}", all_of("device")]
    parts += [f"{all_of('threads')} of {all_of('cores')} threads", ", ".join(packages), f"backend {all_of('backend')}"]
    load = max(result["conditions"]["load_before"] for result in results)
    parts += [f"commit {all_of('commit')}", f"until {latest['date']}", f"load before a run at most {load}"]
    text = "; ".join(parts) + ". " + "; ".join(sorted({result["source"] for result in results})) + ".\n"
    quick = [result for result in results if result["kind"] == "run" and result["conditions"]["quick"]]
    for train, test in sorted({(result["training_images"], result["test_images"]) for result in quick}):
        text += f"\n**A quick run on {train:,} + {test:,} images: it shows that everything runs, not how well.**\n"
    return text


def methods_table(some: list[Cell], found: Found) -> str:
    head = ("method", "classifier", "accuracy", "group average", "identity", "error")
    head += ("parameters", "step", "training", "inference")
    order = {name: number for number, name in enumerate(METHODS)}
    return table(head, (_cells(cell, found) for cell in sorted(some, key=lambda c: (order[c.method], c.tuned))))


def _cells(cell: Cell, found: Found) -> Iterable[str]:
    percent = {"scale": 100.0, "digits": 2}
    yield METHODS[cell.method].title
    yield "tuned" if cell.tuned else "frozen"
    yield shown(cell.score("accuracy"), **percent)
    yield shown(cell.score("group_accuracy"), **percent)
    yield shown(cell.score("identity"), digits=3)
    yield shown(cell.score("error"), digits=4)
    yield f"{cell.results[0]['parameters']:,}"
    times = {name: None if (each := cell.times(name)) is None else Mean.of(each) for name in ("step", "image")}
    yield shown(times["step"], scale=1e3, digits=1) + " ms"
    yield shown(training_seconds(cell, found), digits=0) + " s"
    yield shown(times["image"], scale=1e3, digits=3) + " ms"


def shown(mean: Mean | None, scale: float = 1.0, digits: int = 2) -> str:
    """``98.11 ± 0.05``; without the second part for a single seed, a dash for nothing."""
    if mean is None:
        return "–"
    text = f"{scale * mean.value:.{digits}f}"
    return text if mean.deviation is None else f"{text} ± {scale * mean.deviation:.{digits}f}"
