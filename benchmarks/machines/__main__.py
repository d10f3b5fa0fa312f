"""``python -m benchmarks.machines [--write] [--quick]``: the tables of docs/many_machines.md."""

from __future__ import annotations

import argparse
import os
import re
from datetime import datetime, timezone
from pathlib import Path

import torch

from . import datasets, training
from .training import Setting

PAGE = Path(__file__).resolve().parents[2] / "docs" / "many_machines.md"

#: What a step needs, as images, group and processes grow by turns.
STEPS = [
    Setting("none", 1, "C4", 16),
    Setting("none", 1, "C4", 32),
    Setting("none", 1, "C8", 16),
    Setting("none", 1, "D8", 16),
    Setting("DDP", 2, "C4", 16),
    Setting("DDP", 2, "C4", 32),
    Setting("DDP", 2, "C8", 32),
    Setting("DDP", 2, "D8", 32),
    Setting("FSDP2", 2, "C4", 32),
    Setting("FSDP2", 2, "D8", 32),
]

#: How `equifast canonicalize` grows with cores and processes.
DATASETS = [datasets.Setting(1, 1), datasets.Setting(1, 2), datasets.Setting(2, 2)]


def share(setting: Setting) -> float:
    """What each process sends in a step, on paper, as a multiple of all weights."""
    part = (setting.processes - 1) / setting.processes
    return {"none": 0, "DDP": 2, "FSDP2": 3}[setting.wrapper] * part


def steps_table(quick: bool) -> str:
    columns = ["wrapper", "processes", "group", "images a step", "images a second"]
    columns += ["peak, MiB", "kept, MiB", "sent, MiB", "sent on paper, MiB"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    settings = STEPS[:1] + STEPS[4:5] if quick else STEPS
    for setting, found in zip(settings, training.measure(settings, 3 if quick else training.STEPS), strict=True):
        sent = "–" if found.sent is None else f"{found.sent:.2f}"
        lines.append(
            f"| {setting.wrapper} | {setting.processes} | {setting.group} | {setting.images} | "
            f"{setting.images / found.seconds:.0f} | {found.peak:.0f} | {found.kept:.2f} | {sent} | "
            f"{share(setting) * found.weights:.2f} |"
        )
    return "\n".join(lines)


def datasets_table(quick: bool) -> str:
    lines = ["| processes | cores | images a second |", "|---|---|---|"]
    for setting in DATASETS[-1:] if quick else DATASETS:
        rate = datasets.measure(setting, 4 if quick else 128)
        lines.append(f"| {setting.processes} | {setting.cores} | {rate:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/many_machines.md")
    parser.add_argument("--quick", action="store_true", help="a few, to see that it runs")
    options = parser.parse_args()
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    machine = f"torch {torch.__version__}, {os.cpu_count()} cores"
    tables = {
        "steps": (steps_table(options.quick), f"{machine}, one thread for each process, gloo, {when}."),
        "datasets": (datasets_table(options.quick), f"{machine}, {when}."),
    }
    for name, (table, about) in tables.items():
        print(f"{table}\n\n{about}\n")
        if options.write:
            page = PAGE.read_text()
            begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
            assert begin in page and end in page
            PAGE.write_text(re.sub(f"{begin}.*{end}", f"{begin}\n{table}\n\n{about}\n{end}", page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
