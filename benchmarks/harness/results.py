"""From timings to rows of a table, and to verdicts on the targets; JSON-compatible throughout."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import equifast

from . import cache
from .floor import FLOOR
from .measure import COMPILE, EXPORTED
from .settings import Setting
from .targets import TARGETS, Target
from .timings import LIMIT, Spread, Timings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "triton", "equiadapt", "kornia", "torchvision", "onnx", "onnxruntime", "openvino", "numpy")

#: Rows of what nobody can be quicker than.
BOUNDS = (LIMIT, FLOOR)

#: How variants of ours that aren't what it does by itself are named.
VARIANT = "ours"

Row = dict[str, Any]


def is_ours(contender: str) -> bool:
    return contender.startswith("equifast")


def is_rival(row: Row) -> bool:
    """Whether the row has a ratio to ours of somebody else who does the same."""
    return "ratio" in row and row["contender"] not in BOUNDS and not row["contender"].startswith(VARIANT)


def rows(measure: str, setting: Setting, timings: Timings, unit: str = "ms", scale: float = 1.0) -> list[Row]:
    """One row a contender, with its `figures`; those of warm inputs, if there are any, in ``warm``.

    ``scale``: from what was measured to the unit.
    """
    out = []
    for name in sorted({*timings.times, *timings.errors}, key=_order):
        row: Row = {"measure": measure, "setting": str(setting), "group": setting.group, "label": setting.label}
        row |= {"contender": name, "unit": unit}
        if name in timings.errors:
            out.append(row | {"error": timings.errors[name]})
            continue
        row |= figures(timings, name, scale)
        if timings.warm is not None:
            row["warm"] = figures(timings.warm, name, scale)
        out.append(row)
    return out


def figures(timings: Timings, name: str, scale: float) -> Row:
    """The spread of a contender, what multiple of ours it needs (``ratio``), by round, its rates and its note."""
    out: Row = vars(Spread.of([scale * time for time in timings.times[name]])) | rates(timings, name)
    ours = next((name for name in timings.times if is_ours(name)), None)
    if ours is not None and name != ours:
        out["ratio"] = vars(ratio(timings.times[name], timings.times[ours]))
    if name in timings.notes:
        out["note"] = timings.notes[name]
    return out


def rates(timings: Timings, name: str) -> Row:
    """Bytes and operations a second, and the share of the limit's speed; nothing for a case whose work isn't known."""
    work, limit = timings.work, timings.times.get(LIMIT)
    if work is None:
        return {}
    moved, flops = (work.limit_moved, work.limit_flops) if name == LIMIT else (work.moved, work.flops)
    seconds = Spread.of(timings.times[name]).median / 1e3
    out: Row = {"bytes": moved, "flops": flops, "GB/s": moved / seconds / 1e9, "TFLOP/s": flops / seconds / 1e12}
    if limit and name != LIMIT:
        out["of limit"] = Spread.of(limit).median / 1e3 / seconds
    return {key: value for key, value in out.items() if value}


def verdicts(measure: str, setting: Setting, timings: Timings, device: str) -> list[Row]:
    """How each of our rows does against every target set for this measure and device."""
    return [
        _verdict(target, name, measure, setting, timings, device)
        for target in TARGETS
        if target.judges(measure, setting.group, setting.label) and target.number(device) is not None
        for name in {**timings.times, **timings.errors}
        if is_ours(name)
    ]


def ratio(theirs: list[float], ours: list[float]) -> Spread:
    """Theirs as a multiple of ours, in each round."""
    return Spread.of([a / b for a, b in zip(theirs, ours, strict=True)])


def _verdict(target: Target, ours: str, measure: str, setting: Setting, timings: Timings, device: str) -> Row:
    row: Row = {"measure": measure, "setting": str(setting), "contender": ours, "against": target.opponent}
    row |= {"target": target.number(device), "at_least": target.at_least}
    row |= {"wish": target.wish} if target.wish is not None and device == "cpu" else {}
    row |= {} if target.against else {"unit": "µs"}
    opponents = [name for name in target.against if name in timings.times]
    if not target.against and ours in timings.times:
        spread = Spread.of([1e3 * time for time in timings.times[ours]])
        return row | vars(spread) | {"met": spread.median <= row["target"]}
    missing = [f"{name}: {timings.errors[name]}" for name in (ours, *target.against) if name in timings.errors]
    if ours not in timings.times or not opponents:
        return row | {"met": None, "error": "; ".join(missing) or "no opponent here"}
    best = min(opponents, key=lambda name: Spread.of(timings.times[name]).median)
    pair = (timings.times[best], timings.times[ours])
    spread = ratio(*pair) if target.at_least else ratio(*reversed(pair))
    met = spread.median >= row["target"] if target.at_least else spread.median <= row["target"]
    return row | vars(spread) | {"against": best, "met": met}


def conditions(device: torch.device, rounds: int, quick: bool) -> Row:
    """What a reader needs to judge the numbers."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "device": device_name(device),
        "kind": device.type,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "backend": equifast.backends.choose(device.type),
        "rounds": rounds,
        "quick": quick,
    } | _gpu(device)


def configurations() -> Row:
    """The fastest configuration of each Triton kernel that was tuned, by tuning key."""
    launch = sys.modules.get("equifast.kernels.host.launch")
    kernels = launch.KERNELS if launch else {}
    return {name: chosen for name, kernel in kernels.items() if (chosen := kernel.chosen())}


def write(path: Path, run: dict) -> None:
    """All of it or nothing, whenever the process is stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")
    fresh.replace(path)


def slug(device: torch.device) -> str:
    """File name of the results: ``cpu``, or the GPU's name."""
    name = "cpu" if device.type == "cpu" else device_name(device)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()


def _gpu(device: torch.device) -> Row:
    if device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": {
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "processors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "l2_mib": round(cache.l2_bytes(device) / 2**20, 1),
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        }
    }


def _order(name: str) -> tuple[int, str]:
    known = ("equiadapt", "eager", COMPILE, *EXPORTED, "equifast", FLOOR, LIMIT)
    return next((i for i, prefix in enumerate(known) if name.startswith(prefix)), len(known)), name


def _version(package: str) -> str | None:
    try:
        return torch.__version__ if package == "torch" else metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    isa = torch.backends.cpu.get_cpu_capability()
    return f"{named[0] if named else platform.machine()}, {isa}"


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("" if not commit or not git("status", "--porcelain", "-uno") else " and changes") or "none"
    except OSError:
        return "unknown"
