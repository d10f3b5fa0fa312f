"""``python -m benchmarks.scaling``: times `canonicalize` as the batch, the images and the group grow, one at a time.

Writes benchmarks/results/scaling/<device>.json, from which ``python -m benchmarks --plots`` draws. Contenders take
turns, as in all benchmarks. On a CPU one thread runs, and the time is that which it works, so other programs don't
count. How well threads share the work is not in it.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from .harness import contenders, report, results
from .harness.measure import Options, run
from .harness.settings import Setting
from .pipeline import canonicalize

RESULTS = report.RESULTS / "scaling"

#: What grows, and the settings that differ in it alone. Of all these sizes each contender sees the same pixels.
SERIES = {
    "batch": [Setting("C4", batch=batch) for batch in (1, 4, 16, 64)],
    "size": [Setting("C4", batch=16, size=size) for size in (160, 224, 320, 640)],
    "order": [Setting(group, batch=16) for group in ("C2", "C4", "C8", "C12", "C16")],
}


def measure(options: Options) -> list[results.Row]:
    """Rows as of any other measure; ``at`` is the batch, the size or the order."""
    found = []
    clock = "process" if options.device.type == "cpu" else "stream"
    for name, settings in SERIES.items():
        for chosen in options.chosen(settings):
            setting = options.setting(chosen)
            options.log(f"by {name}: {setting}")
            case = canonicalize.case(setting, options.device)
            wanted = ("equiadapt", "eager", contenders.ours(options.device))
            case = replace(case, contenders=[c for c in case.contenders if c.name in wanted], clock=clock)
            rows = results.rows(f"canonicalize, by {name}", setting, run(case, options))
            found += [row | {"at": getattr(setting, name)} for row in rows]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", type=torch.device, help="default: cuda if there is one, else cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torch")
    device = chosen.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    conditions = results.conditions(device, chosen.rounds, quick=False)
    rows = measure(Options(device, chosen.rounds, log=lambda line: print(line, file=sys.stderr)))
    results.write(chosen.out / f"{results.slug(device)}.json", {"conditions": conditions, "rows": rows, "verdicts": []})


if __name__ == "__main__":
    main()
