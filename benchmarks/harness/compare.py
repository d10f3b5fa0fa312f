"""New results against the last committed ones: where have we become slower, beyond noise?

A ratio is a contender's time as a multiple of ours, round by round. What the machine did meanwhile is not in it, but it
falls where the contender became faster, too. So a setting has regressed if ours lost against *every* contender that
both runs have, limits and floors included.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

from .report import RESULTS, number, spread
from .results import ROOT, Row, is_ours

#: What a ratio has to lose at least, as a share of itself. Two runs of one commit differ by a few percent.
LEAST = 0.05

#: Conditions that have to be the same, or figures mean different things.
SAME = ("device", "threads", "quick")

#: A measure and a setting.
Key = tuple[str, str]


class Change(NamedTuple):
    """Of one contender: its multiple of ours before and now, medians and quartiles."""

    contender: str
    before: Row
    now: Row

    @property
    def lost(self) -> bool:
        """The quartiles lie apart, and the median fell by `LEAST`."""
        apart = self.now["q3"] < self.before["q1"]
        return apart and self.now["median"] < (1 - LEAST) * self.before["median"]

    def __str__(self) -> str:
        return f"{self.contender} {spread(self.before, 1.0, '×')} → {spread(self.now, 1.0, '×')}"


def ratios(run: dict) -> dict[Key, dict[str, Row]]:
    """By setting, the ratio of each contender that has one."""
    found: dict[Key, dict[str, Row]] = {}
    for row in run["rows"]:
        if "ratio" in row:
            found.setdefault((row["measure"], row["setting"]), {})[row["contender"]] = row["ratio"]
    return found


def failures(run: dict) -> dict[Key, str]:
    """Settings in which ours has no time, and why."""
    ours = (row for row in run["rows"] if "error" in row and is_ours(row["contender"]))
    return {(row["measure"], row["setting"]): row["error"] for row in ours}


def incomparable(before: dict, now: dict) -> str | None:
    """Why the two runs can't be compared, or None."""
    for name in SAME:
        was, is_ = before["conditions"][name], now["conditions"][name]
        if was != is_:
            return f"{name} was {was}, and is {is_}"
    return None


def regressions(before: dict, now: dict) -> list[str]:
    """One line for each setting of both runs in which ours got slower, or fails now."""
    lines, is_, broken = [], ratios(now), failures(now)
    for key, was in ratios(before).items():
        name = ", ".join(key)
        changes = [Change(c, was[c], is_[key][c]) for c in was if c in is_.get(key, {})]
        if key in broken:
            lines.append(f"{name}: fails now: {broken[key]}")
        elif changes and all(change.lost for change in changes):
            factor = min(change.before["median"] / change.now["median"] for change in changes)
            lines.append(f"{name}: takes {number(factor)} times as long: {'; '.join(map(str, changes))}")
    return lines


def committed(name: str) -> dict | None:
    """A file of results as the last commit has it."""
    path = (RESULTS / name).relative_to(ROOT).as_posix()
    shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True)
    return json.loads(shown.stdout) if shown.returncode == 0 else None


def main(folder: Path) -> int:
    """0 without regressions, 1 with some, 2 if there is nothing to compare."""
    compared, found = 0, 0
    for path in sorted(folder.glob("*.json")):
        now, before = json.loads(path.read_text()), committed(path.name)
        reason = "no committed results" if before is None else incomparable(before, now)
        if reason:
            print(f"{path.name}: not compared: {reason}")
            continue
        lines = regressions(before, now)
        settings = len(ratios(before).keys() & ratios(now).keys())
        print(f"{path.name}: {len(lines)} regressions in {settings} settings, against {before['conditions']['commit']}")
        print("\n".join(f"* {line}" for line in lines), end="\n" if lines else "")
        compared, found = compared + 1, found + len(lines)
    return 2 if not compared else 1 if found else 0
