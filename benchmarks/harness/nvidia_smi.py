"""The state of a GPU while it was measured: clocks, power, temperature, driver, as nvidia-smi tells them."""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone

import torch

State = dict[str, str]

FIELDS = (
    "name",
    "driver_version",
    "pstate",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "clocks.max.mem",
    "clocks_event_reasons.active",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "persistence_mode",
    "mig.mode.current",
)

#: In the place of what can't be found out.
NOT_TOLD = "not told"

#: Seconds.
TIMEOUT = 30


def state(device: torch.device, when: str) -> State:
    """All `FIELDS`, each as text with its unit or `NOT_TOLD`; ``when`` and the time of day."""
    at = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"when": when, "at": at} | fields(str(getattr(torch.cuda.get_device_properties(device), "uuid", "")))


def fields(uuid: str) -> State:
    """Of the GPU of this id, or, where nvidia-smi doesn't know it by that, of the only one."""
    found = dict.fromkeys(FIELDS, NOT_TOLD)
    try:
        for which in (["-i", f"GPU-{uuid.removeprefix('GPU-')}"], []):
            if values := _ask(FIELDS, which):
                return dict(zip(FIELDS, values, strict=True))
            # One field that this version doesn't know makes it refuse all.
            for field in FIELDS:
                if values := _ask((field,), which):
                    found[field] = values[0]
            if found["name"] != NOT_TOLD:
                break
    except (OSError, subprocess.TimeoutExpired):
        pass
    return found


def _ask(asked: tuple[str, ...], which: list[str]) -> list[str] | None:
    """The values of these fields; None where nvidia-smi refuses, or has several GPUs to tell of."""
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader", *which]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    lines = done.stdout.strip().splitlines()
    values = [value.strip() for value in lines[0].split(",")] if len(lines) == 1 else []
    if done.returncode or len(values) != len(asked):
        return None
    return [NOT_TOLD if value.startswith("[") or value in ("", "N/A") else value for value in values]


def summary(states: list[State]) -> str:
    """One sentence about all states of a run: what stayed the same, and the least and the most of what didn't."""
    told = {field: list(dict.fromkeys(state.get(field, NOT_TOLD) for state in states)) for field in FIELDS}
    parts = [f"{field} {_range(values)}" for field, values in told.items() if values != [NOT_TOLD]]
    absent = [field for field, values in told.items() if values == [NOT_TOLD]]
    parts += [f"{NOT_TOLD}: {', '.join(absent)}"] * bool(absent)
    return f"nvidia-smi, {len(states)} times from before the run to its end: {'; '.join(parts)}."


def _range(values: list[str]) -> str:
    """The least and the most of numbers with a unit; other values as they came."""
    try:
        ordered = sorted(values, key=lambda value: float(value.split()[0]))
    except ValueError:
        return ", ".join(values)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"
