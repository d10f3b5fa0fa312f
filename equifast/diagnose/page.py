"""A diagnosis as text: sentences and tables in Markdown, lined up for a terminal too."""

from __future__ import annotations

from collections.abc import Sequence

from ..groups import Group
from .chance import Measured, Told
from .findings import Findings, Views

#: Images of a kind below which a prediction of the kind, cross-validated, has little to go by.
FEW = 10

#: What each test of a choice is called, and what it means where it is above chance.
TESTS = {
    "label_from_element": (
        "label, images as they come",
        "canonical images of some classes lie otherwise than those of others, so that a network which is trained "
        "behind this canonicalizer can tell what an image shows by how it lies",
    ),
    "label_from_turned": (
        "label, images turned at random",
        "the choice does not follow the turn of the image, but hands the label on: an element that undoes a random "
        "turn can't know it",
    ),
    "turn_from_element": ("turn, images turned at random", ""),
    "turn_from_disorder": (
        "turn, pixels in disorder",
        "with nothing to recognize, only traces of the turn itself are left to see, such as corners or blur: accuracy "
        "behind this canonicalizer may rest on turns that a computer has made",
    ),
}

LEGEND = """\
In brackets: the interval of 95 % that this number of images allows. *Same answer*: as for the image that isn't turned.
*Outputs moved*: total variation ½ Σ |p − q| between the probabilities for the turned image and those for the image as
it comes. *Features moved*: ‖f − f′‖ / (‖f‖ + ‖f′‖), 0 for equal ones, 71 % for such of one length at right angles."""

TIMES = """\
Medians; on a CPU, time of the processor, all threads together. *All members*: the average of the outputs for all of
them."""


def element_name(group: Group, element: int) -> str:
    """Such as "90°", "flip" and "flip, 90°": a counter-clockwise turn, after a left-right flip."""
    rotation, reflection = group.split(element)
    angle = f"{360 * rotation / group.n:.4g}°"
    return ("flip" if rotation == 0 else f"flip, {angle}") if reflection else angle


def names(group: Group) -> list[str]:
    """The names of all elements."""
    return [element_name(group, e) for e in range(group.order)]


def text(found: Findings) -> str:
    """The whole page below its title."""
    parts = [
        f"{found.group}, {found.count} images.",
        "\n".join(f"* {sentence}" for sentence in summary(found)),
        "### The model alone, by the turn of the images",
        _views(found, found.before),
        "### Behind the canonicalizer",
        _views(found, found.after),
        LEGEND,
        "### The choice",
        _choices(found),
        "### What the chosen element gives away",
        _tests(found),
        "Accuracy of a prediction from the chosen element alone, cross-validated. Chance is the share of the commonest "
        "answer, and p the share of random orders of the answers that do as well. To tell the turn is what a "
        "canonicalizer is for. The other rows should be at chance.",
    ]
    if found.seconds:
        parts += ["### Time", _times(found), TIMES]
    parts += [f"Features are those at `{found.features}`."] if found.features else []
    return "\n\n".join([*parts, *found.notes])


def summary(found: Findings) -> list[str]:
    """What the figures say, in a few sentences."""
    before, after = found.before, found.after
    said = []
    if before.accuracy is not None and after.accuracy is not None:
        said.append(
            f"The model alone is right for {_share(before.accuracy, 0)} of the images as they come, and for "
            f"{_mean(before.accuracy)} over all {found.group.order} orientations. Canonicalized, it is right for "
            f"{_share(after.accuracy, 0)} and {_mean(after.accuracy)}."
        )
    if found.group.order > 1:
        worst = int(before.consistency.mean[1:].argmin()) + 1
        said.append(
            f"Alone, it keeps its answer for {_mean(before.consistency, 1)} of the turned images, and for "
            f"{_share(before.consistency, worst)} of those turned by {element_name(found.group, worst)}, which is the "
            f"least. Canonicalized, it keeps its answer for {_mean(after.consistency, 1)}."
        )
    said.append(
        f"Canonicalization leaves {_percent(found.choices.identity.mean.item())} % of the images as they come, and the "
        f"answer as it was for {_percent(found.kept.mean.item())} %."
    )
    if found.seconds:
        ratio = found.seconds["together"] / found.seconds["model"]
        average = found.seconds["all members"] / found.seconds["model"]
        said.append(
            f"Canonicalizer and model take {ratio:.2f} times as long as the model alone; the average over all members "
            f"takes {average:.2f} times as long."
        )
    for name in found.leaks:
        what, meaning = TESTS[name]
        test = getattr(found, name)
        said.append(
            f"**The choice gives something away** ({what}): right for {_percent(test.accuracy.mean.item())} %, where "
            f"chance is {_percent(test.chance)} %. That is, {meaning}."
        )
    if not found.leaks:
        tested = (
            "the label or traces of a turn" if found.label_from_element else "traces of a turn (no labels were given)"
        )
        said.append(f"By itself, the chosen element does not tell {tested} better than chance.")
    test = found.label_from_element
    if test is not None and test.count < FEW * test.kinds:
        said.append(
            f"There are {test.count} images of {test.kinds} kinds. A choice that gives away the label may go unnoticed "
            f"with less than {FEW} of each."
        )
    return said


def _views(found: Findings, views: Views) -> str:
    columns = {
        "right, %": views.accuracy,
        "same answer, %": views.consistency,
        "confidence, %": views.confidence,
        "outputs moved, %": views.distance,
        "features moved, %": views.feature_distance,
    }
    shown = {head: values for head, values in columns.items() if values is not None}
    rows = [
        [element_name(found.group, e) + ("" if exact else " (interpolated)"), *(_cell(v, e) for v in shown.values())]
        for e, exact in enumerate(found.exact)
    ]
    return table(["turned by", *shown], rows)


def _choices(found: Findings) -> str:
    choices = found.choices
    rows = [
        [name, str(int(choices.counts[0, e])), str(int(choices.counts[:, e].sum())), _cell(choices.equivariance, e)]
        for e, name in enumerate(names(found.group))
    ]
    heads = ["element", "chosen, images as they come", "chosen, all turns", "choice turns along, %"]
    entropy = choices.entropy.mean.item()
    undecided = "" if entropy != entropy else f" The entropy of the choice is {_percent(entropy)} % of the largest."
    return (
        table(heads, rows)
        + f"\n\nTies among the images as they come: {_percent(choices.tied.mean.item())} %.{undecided} "
        + "*Turns along*: of images turned by this element, those whose chosen element is turned along exactly."
    )


def _tests(found: Findings) -> str:
    rows = []
    for name, (what, _) in TESTS.items():
        test: Told | None = getattr(found, name)
        if test is not None:
            verdict = "above chance" if test.is_above_chance else "at chance"
            values = [_cell(test.accuracy), _percent(test.chance), f"{test.p_value:.3f}", str(test.count), verdict]
            rows.append([what, *values])
    return table(["from the element alone", "right, %", "chance, %", "p", "images", "verdict"], rows)


def _times(found: Findings) -> str:
    model = found.seconds["model"]
    rows = [[name, f"{1e3 * s:.2f}", f"{s / model:.2f}"] for name, s in found.seconds.items()]
    return table(["", "ms for an image", "times the model"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown that is lined up in plain text as well: the first column to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        " | ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, rule, *rows]
    ]
    return "\n".join(f"| {line} |" for line in lines)


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.1f}"


def _cell(values: Measured, index: int | None = None) -> str:
    mean, low, high = ((v if index is None else v[index]).item() for v in (values.mean, values.low, values.high))
    digits = 1 if high - low < 0.05 else 0
    return _percent(mean) if mean != mean else f"{_percent(mean)} ({100 * low:.{digits}f}–{100 * high:.{digits}f})"


def _share(values: Measured, index: int) -> str:
    return f"{_percent(values.mean[index].item())} %"


def _mean(values: Measured, first: int = 0) -> str:
    return f"{_percent(values.mean[first:].mean().item())} %"
