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

#: How everything was measured: the head of docs/benchmarks.md.
INTRODUCTION = Path(__file__).with_name("introduction.md")


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
    parts = [INTRODUCTION.read_text()]
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
    if unfinished := run.get("unfinished"):
        text += f" Cut off before the end: {', '.join(unfinished)}."
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
