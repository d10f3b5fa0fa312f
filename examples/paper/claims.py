"""The paper's claims and this package's aims, held against the stored results."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.harness.report import table

from .methods import METHODS
from .plan import CANONICALIZED, DATA, GROUPS, MOVED
from .plots import TITLES
from .summary import Cell, Found, Mean, Result, gap, paired, ratio, seconds_to

#: Points of accuracy that the worst angle may lie below the upright classifier.
AIM = 0.3

#: The share of the published package's time that a training may take.
SHARE = 1 / 3

#: Identity metrics whose time is told.
LEVELS = (0.5, 0.8, 0.9, 0.95)

CURVES = """As the paper's Figure 2: both methods in the published package and in equifast, with the same loss (prior
without beta, and the contrastive term of EquiOptAdapt), optimizer and batches of 256 upright images.
The scorers are the same network. EquiAdapt's networks are of the same size, with steerable filters (e2cnn) in the
published package and free ones in equifast. The contenders of a curve ran one after another in one process. Time is
that of training steps alone. Lines of one kind are the seeds.
"""


def text(found: Found, curves: list[Result]) -> str:
    parts = []
    if found:
        parts += [_angles(found), _better(found), _faster(found)]
    if curves:
        parts.append(_published(curves))
    return "\n".join(parts) if parts else "Nothing has been run.\n"


def settings(found: Found) -> Iterator[tuple[str, str]]:
    """Data sets and groups that there are results of."""
    for data in DATA:
        for group in GROUPS:
            if any(key[:2] == (data, group) for key in found):
                yield data, group


def _angles(found: Found) -> str:
    """How far the worst angle lies below the upright accuracy of the frozen classifier alone."""
    kinds = [("vanilla", False), ("augmentation", True)]
    kinds += [(method, tuned) for method in (*CANONICALIZED, MOVED) for tuned in (False, True)]
    rows, met = [], {kind: [0, 0] for kind in kinds}
    for data, group in settings(found):
        row, upright = [f"{TITLES[data]}, {group}"], found.get((data, group, "vanilla", False))
        for kind in kinds:
            cell = found.get((data, group, *kind))
            if cell is None or upright is None:
                row.append("–")
                continue
            points = gap(cell, upright)
            met[kind][0] += points <= AIM
            met[kind][1] += 1
            row.append(f"{points:.2f}" + (" ✓" if points <= AIM else ""))
        rows.append(row)
    counts = "; ".join(f"{_name(*kind)} in {a} of {b}" for kind, (a, b) in met.items() if b)
    lines = [f"**Aim: at every angle within {AIM} points of the upright accuracy.** Settings in which it is reached:"]
    lines += [
        f"{counts}.",
        "Points that the worst element of the group lies below the frozen classifier on upright images:",
    ]
    lines.append("")
    return "\n".join(lines) + "\n" + table(("setting", *(_name(*kind) for kind in kinds)), rows)


def _better(found: Found) -> str:
    """EquiOptAdapt's group average beside EquiAdapt's, seed by seed."""
    ahead, lines = 0, []
    for data, group, tuned, one, other in _pairs(found):
        found_difference = paired(one, other, lambda r, g=group: 100 * r["scores"][g]["group_accuracy"])
        ahead += found_difference.value > 0
        lines.append(f"* {TITLES[data]}, {group}, {_state(tuned)}: {_signed(found_difference)} points")
    head = (
        f"**Claim: better than the direct method.** EquiOptAdapt's group average is above EquiAdapt's in {ahead} of "
        f"{len(lines)} settings. The difference, seed by seed:"
    )
    return "\n".join([head, "", *lines]) + "\n"


def _faster(found: Found) -> str:
    """EquiAdapt's time as a multiple of EquiOptAdapt's, both in equifast."""
    lines = {}
    for _, group, tuned, one, other in _pairs(found):
        training, inference = (ratio(other, one, name) for name in ("step", "image"))
        if not tuned and training is not None and inference is not None:
            lines[group] = f"* {group}: training {training.value:.2f}×, inference {inference.value:.2f}×"
    head = (
        "**Claim: up to 2 times faster than the direct method.** Time that EquiAdapt takes, as a multiple of "
        "EquiOptAdapt's, both in equifast, in front of a frozen classifier (below 1× the direct method is faster):"
    )
    return "\n".join([head, "", *(lines.values() or ["* not measured"])]) + "\n"


def _published(curves: list[Result]) -> str:
    """Training time beside the published package."""
    lines = []
    for data, group, some in _kinds(curves):
        for method in ("EquiOptAdapt", "EquiAdapt"):
            pairs = filter(None, (_step_times(curve, method) for curve in some))
            ratios = [ours / theirs for ours, theirs in pairs]
            if ratios:
                share = statistics.fmean(ratios)
                verdict = "reached" if share <= SHARE else "**not reached**"
                lines.append(f"* {method}, {TITLES[data]}, {group}: a step takes {share:.2f} of its time: {verdict}")
            else:
                lines.append(f"* {method}, {TITLES[data]}, {group}: equiadapt is not installed, so nothing to compare")
    return "\n".join(["**Aim: a third of the published package's time.**", "", *lines]) + "\n"


def curves_table(curves: list[Result]) -> str:
    rows = []
    for data, group, some in _kinds(curves):
        for name in some[0]["contenders"]:
            points = [curve["contenders"][name] for curve in some]
            row = [f"{TITLES[data]}, {group}", name]
            if any("missing" in p for p in points):
                rows.append([*row, *["–"] * (2 + len(LEVELS)), "not installed"])
                continue
            step = statistics.fmean(p["seconds"][-1] / p["steps"][-1] for p in points)
            row += [f"{1e3 * step:.0f} ms", f"{statistics.fmean(p['identity'][-1] for p in points):.3f}"]
            for level in LEVELS:
                times = [seconds_to(curve, name, level) for curve in some]
                row.append("not reached" if None in times else f"{statistics.fmean(times):.1f} s")  # type: ignore[arg-type]
            rows.append([*row, ""])
    head = ("setting", "contender", "a step", "identity at the end", *(f"until {level}" for level in LEVELS), "note")
    return table(head, rows)


def _step_times(curve: Result, method: str) -> tuple[float, float] | None:
    """Seconds that all steps took, ours and theirs; None if the package isn't there."""
    pair = [curve["contenders"].get(f"{method}, {package}", {}) for package in ("equifast", "equiadapt")]
    return None if any("seconds" not in p for p in pair) else (pair[0]["seconds"][-1], pair[1]["seconds"][-1])


def _pairs(found: Found) -> Iterator[tuple[str, str, bool, Cell, Cell]]:
    """EquiOptAdapt and EquiAdapt in the same setting."""
    for data, group in settings(found):
        for tuned in (False, True):
            one, other = (found.get((data, group, method, tuned)) for method in ("equioptadapt", "equiadapt"))
            if one is not None and other is not None:
                yield data, group, tuned, one, other


def _kinds(curves: list[Result]) -> Iterator[tuple[str, str, list[Result]]]:
    for data in DATA:
        for group in GROUPS:
            if some := [curve for curve in curves if (curve["data"], curve["group"]) == (data, group)]:
                yield data, group, some


def _name(method: str, tuned: bool) -> str:
    return f"{METHODS[method].title}, {_state(tuned)}"


def _state(tuned: bool) -> str:
    return "tuned" if tuned else "frozen"


def _signed(mean: Mean) -> str:
    text = f"{mean.value:+.2f}"
    return text if mean.deviation is None else f"{text} ± {mean.deviation:.2f}"
