"""Tables for people, from the stored results: docs/benchmarks.md, and the block between two markers in the README."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from . import nvidia_smi
from .results import ROOT, Row, is_ours, is_rival
from .targets import TARGETS

RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"

#: Measures of whole pipelines, by how they begin.
WHOLE = ("canonicalize", "images", "training", "tax")

#: What a GPU's targets were set for.
GPU = "H100"
NOT_YET = "not yet measured"

#: Of a target without an opponent.
MICROS = {"unit": "µs"}

INTRODUCTION = """# Benchmarks

Written by `python -m benchmarks` (`make bench`); edits here will be lost. Every ratio comes from one run: in each
round the contenders take turns on the same fresh random inputs; the figure is the median over rounds, with
quartiles in brackets. A turn begins with a call that isn't timed, so that the memory of the calls before it is at hand,
as in a loop. A contender whose output isn't that of `eager` gets no time. Ratios, not milliseconds, are what carries
over to other machines.

| contender | what it is |
|---|---|
| `equiadapt` | the published package, equiadapt 0.1.2 with kornia 0.9.0; where it isn't installed, its path rewritten |
| `eager` | the strongest plain PyTorch: `rot90`, `flip` for exact elements, one `grid_sample` per interpolated angle |
| `compile` | `torch.compile` of `eager`; at inference also with its weights as constants, `compile + freezing` |
| `onnxruntime`, `openvino` | at inference, the exact orbit and the network as one exported graph, on as many threads |
| `equifast-…` | ours, by backend |
| `floor` | the network's operations at the rate of its quickest layer in that round, then one copy of the images |
| `limit` | what nobody can beat: a copy of as many bytes, or a square matrix product of as many operations |

For the canonical image `eager` takes the quickest of a grid per sample (`act_by_grid`), a loop over the elements
(`act_by_element`) and a gather from the orbit (`act_by_orbit`), as the notes say. equiadapt's canonical images for D4
are compared only where they are right: for a reflection with an odd quarter turn they are not, a known bug of the
package, so there only its time counts.

The scoring network has the same weights for all: equiadapt's `ConvNetwork` (kernel 7, 16 channels, 3 layers, d = 128)
on a centre crop of 0.8 resized to 96×96. *Outside the network* is the whole less the network on a ready orbit, run as
that contender runs it (from equifast's goes the quickest of them all), round by round, and never less than the limit.
*Images to vectors* is the orbit of the resized images and the network, which is all that an inference engine can be
given; of the whole of `canonicalize` an engine runs that part, and `eager` the rest. *Inside in bfloat16*: images and
vectors are float32, everything between in bfloat16; vectors are compared with those of `eager` in float32, within 3 %
of the largest.

A *training step* is forward, prior + contrastive + artifact loss, backward, with dropout off, and with a gradient that
comes back from the canonical images. That reaches the choice by the estimator *angle*, equiadapt's only one, or by
*straight_through*; equiadapt is the same in both. Of its gradients those for D4 aren't compared. For C4 and D4 the
artifact loss is 0, since permutations there and back change nothing: `eager` and equifast know that and spare the
network's second pass, equiadapt runs it; the row *ours, second pass run* does equiadapt's work. (With dropout,
equiadapt's artifact loss would also hold the noise of dropout.)

*Peak memory* is the resident high-water mark of the step in a fresh process, less what was resident before. The *tax*
is `canonicalize` as a share of one ResNet-50 forward pass. *Straight-through*: `eager` may keep a whole orbit at full
resolution from forward to backward; *eager, nothing kept* makes it again, as equifast does.

On a GPU times are the device's, of calls enqueued in a loop; *CUDA graph* is the device's time for calls recorded in a
graph, without what the host takes to enqueue them, and *host overhead* that time of the host alone. *Cold*: copies of
the inputs take turns, so many that their bytes pass through the L2 cache twice before a copy has its turn again, and
outputs are kept as long; so a call reads from memory, as one does to which a data loader or a network has just brought
the next batch. That is what targets are judged by. *Warm*: the same inputs again and again; where they fit into the L2,
that hides the memory. Each ratio, and each share of the limit, is of two cold times or of two warm ones. Each row has
what it reaches in bytes (those that must be read and written, once each) and operations a second, and as a share of the
speed of the limit. That is there the quickest copy that moves as many bytes: `clone`, `x + 0`, or a Triton kernel that
does nothing else; for `orbit` also `repeat`. Clocks, power and driver are told before the run and after each measure.
Convolutions may use TF32, as PyTorch has it by default, and so does the product that limits them. equiadapt's grids for
bfloat16 images are in bfloat16, off by pixels: its outputs are not compared there. `python -m benchmarks --dry-run`
runs all of that on tiny images without a GPU.
"""


def load(folder: Path = RESULTS) -> list[dict]:
    """All stored runs, CPUs first."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return sorted(runs, key=lambda run: run["conditions"]["kind"] != "cpu")


def write(runs: list[dict], docs: Path = DOCS, readme: Path = README) -> None:
    docs.parent.mkdir(exist_ok=True)
    docs.write_text(page(runs))
    if readme.exists():
        readme.write_text(insert(readme.read_text(), summary(runs)))


def insert(text: str, block: str) -> str:
    """``text`` with ``block`` between its markers; unchanged if it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{block.strip()}\n{end}{after}" if begin and end else text


def page(runs: list[dict]) -> str:
    parts = [INTRODUCTION]
    for run in runs:
        parts += [f"## {run['conditions']['device']}\n", conditions(run), "### Targets\n", targets(run["verdicts"])]
        parts += ["### Where equifast falls short\n", shortcomings(run)]
        parts += ["### Rows in which another contender is ahead\n", losses(run), "### Everything measured\n"]
        parts += [f"**{measure}**\n\n{contenders(rows)}" for measure, rows in by_measure(run["rows"])]
    if not any(run["conditions"]["kind"] == "cuda" for run in runs):
        parts += [f"## {GPU}\n", f"{NOT_YET.capitalize()}: no GPU has run `python -m benchmarks`.\n", unmeasured()]
    return "\n".join(parts).rstrip() + "\n"


def summary(runs: list[dict]) -> str:
    """The README's block: the verdicts on whole pipelines, and how many of all targets are met."""
    parts = []
    for run in runs:
        verdicts = run["verdicts"]
        met = sum(v["met"] is True for v in verdicts)
        parts += [conditions(run), targets([v for v in verdicts if v["measure"].startswith(WHOLE)])]
        parts.append(f"{met} of {len(verdicts)} targets met, single operations included; every table and every loss")
        parts.append("is in [docs/benchmarks.md](docs/benchmarks.md).\n")
    if not any(run["conditions"]["kind"] == "cuda" for run in runs):
        parts.append(f"{GPU}: {NOT_YET}.\n")
    return "\n".join(parts)


def conditions(run: dict) -> str:
    c = run["conditions"]
    packages = ", ".join(f"{name} {version}" for name, version in c["packages"].items())
    text = (
        f"{c['device']}; {c['threads']} of {c['cores']} threads; float32 unless stated; {c['rounds']} rounds; "
        f"{packages}; Python {c['python']}; backend {c['backend']}; commit {c['commit']}; {c['date']}; "
        f"load before the run {c['load_before']}."
    )
    if gpu := c.get("gpu"):
        text += (
            f" {gpu['memory_gib']} GiB, {gpu['processors']} processors, {gpu['l2_mib']} MiB of L2; CUDA {gpu['cuda']}; "
            f"convolutions in {'TF32' if gpu['tf32_convolutions'] else 'float32'}."
        )
    if states := run.get("states"):
        text += f" {nvidia_smi.summary(states)}"
    return text + (" **A quick run on an eighth of the batch: not for publication.**\n" if c["quick"] else "\n")


def targets(verdicts: list[Row]) -> str:
    def cells(v: Row) -> tuple[str, ...]:
        measured = v["error"] if "error" in v else spread(v, share(v), unit(v))
        return v["measure"], v["setting"], against(v), wanted(v), measured, verdict(v)

    return table(("measure", "setting", "against", "target", "measured", "met"), map(cells, verdicts))


def unmeasured() -> str:
    """The targets of a GPU, as verdicts that nobody has measured."""
    rows = []
    for t in TARGETS:
        if t.cuda is not None:
            v = {"measure": t.measure, "against": t.opponent, "at_least": t.at_least, "target": t.cuda}
            v |= {} if t.against else MICROS
            rows.append((t.measure, ", ".join(t.groups or ("all",)), against(v), wanted(v), NOT_YET))
    return table(("measure", "groups", "against", "target", "measured"), rows)


def contenders(rows: list[Row]) -> str:
    """On a GPU with a column for cold inputs and one for warm ones, each with its multiple of ours."""
    columns = {"cold": None, "warm": "warm"} if any("warm" in row for row in rows) else {"time or size": None}

    def cells(row: Row) -> list[str]:
        name = f"**{row['contender']}**" if is_ours(row["contender"]) else row["contender"]
        if "error" in row:
            return [row["setting"], name, *["–"] * (2 * len(columns)), row["error"]]
        measured, notes = [], []
        for label, key in columns.items():
            found = row[key] if key else row
            ratio = spread(found["ratio"], 1.0, "×") if "ratio" in found else ""
            measured += [spread(found, 1.0, f" {row['unit']}"), ratio]
            note = ", ".join(filter(None, (found.get("note"), rates(found))))
            notes += [f"{label}: {note}" if key else note] * bool(note)
        return [row["setting"], name, *measured, "; ".join(notes)]

    head = [word for label in columns for word in (label, "multiple of ours")]
    return table(("setting", "contender", *head, "note"), map(cells, rows))


def shortcomings(run: dict) -> str:
    """Targets missed."""
    lines = [
        f"* target missed: {v['measure']}, {v['setting']}, against {v['against']}: wanted {wanted(v)}, got "
        + (v["error"] if "error" in v else spread(v, share(v), unit(v)))
        for v in run["verdicts"]
        if not v["met"]
    ]
    return "\n".join(lines or ["Nowhere in this run."]) + "\n"


def losses(run: dict) -> str:
    """The rows in which another contender is ahead of ours beyond noise, and how many more there are within it.

    Beyond noise: in three quarters of the rounds it took less than ours.
    """
    rivals = [(row, row["ratio"], "") for row in run["rows"] if is_rival(row)]
    rivals += [(row, row["warm"]["ratio"], " with warm inputs") for row, *_ in rivals if "warm" in row]
    behind = [each for each in rivals if each[1]["median"] < 1]
    clear = [each for each in behind if each[1]["q3"] < 1]
    lines = [
        f"* {row['contender']}: {row['measure']}, {row['setting']}: it needs {spread(ratio, 1.0, '×')} of our "
        + ("memory" if row["unit"] == "MiB" else "time")
        + how
        for row, ratio, how in clear
    ]
    counted = (
        f"{len(clear)} of {len(rivals)} rows of other contenders, beyond noise: the upper quartile of the multiple of "
        f"ours is below 1. In {len(behind) - len(clear)} more only the median is."
    )
    return "\n".join([counted, *([""] if lines else []), *lines]) + "\n"


def table(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def by_measure(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["measure"], []).append(row)
    return list(found.items())


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(row: Row, scale: float, unit: str) -> str:
    median, q1, q3 = (number(row[key] * scale) for key in ("median", "q1", "q3"))
    return f"{median}{unit}" + (f" ({q1}–{q3})" if row["q1"] != row["q3"] else "")


def share(v: Row) -> float:
    return 100.0 if v["measure"] == "tax" else 1.0


def unit(v: Row) -> str:
    return f" {v['unit']}" if "unit" in v else " %" if v["measure"] == "tax" else "×"


def wanted(v: Row) -> str:
    numbers = [f"{'≥' if v['at_least'] else '≤'} {number(v['target'] * share(v))}{unit(v)}"]
    if "wish" in v:
        numbers.append(f"(wish {number(v['wish'] * share(v))}{unit(v)})")
    return " ".join(numbers)


def rates(row: Row) -> str:
    """What a row reaches, for its note."""
    parts = [f"{number(row[name])} {name}" for name in ("GB/s", "TFLOP/s") if name in row]
    if "of limit" in row:
        parts.append(f"{number(100 * row['of limit'])} % of the limit")
    return ", ".join(parts)


def against(v: Row) -> str:
    if "unit" in v:
        return v["against"]
    return f"faster than {v['against']}" if v["at_least"] else f"share of {v['against']}"


def verdict(v: Row) -> str:
    return {True: "yes", False: "**no**", None: NOT_YET}[v["met"]]


if __name__ == "__main__":
    if given := sys.argv[1:]:
        print(page([json.loads(Path(name).read_text()) for name in given]))
    else:
        write(load())
