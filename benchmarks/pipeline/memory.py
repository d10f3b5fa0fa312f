"""Peak memory of one training step above its inputs, each contender in a process of its own.

On a CPU: the kernel's own high-water mark of resident memory (VmHWM), reset just before the step, less what was
resident then. That counts everything, also what oneDNN and native code allocate past PyTorch's allocator, which
`torch.profiler` doesn't see. On a GPU: ``torch.cuda.max_memory_allocated``.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from ..harness import contenders
from ..harness.measure import Options, Unavailable, reason
from ..harness.results import ROOT, Row, rows, verdicts
from ..harness.settings import Setting
from ..harness.timings import Timings

MEASURE = "training step, peak memory"


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    names = [name for name in contenders.pipelines(options.device) if name != "compile"]
    for group in options.chosen(("C4",) if options.quick or options.dry else ("C4", "D4")):
        setting = options.setting(Setting(group, batch=options.batch()))
        options.log(f"{MEASURE}: {setting}")
        found = Timings()
        for name in names:
            try:
                found.times[name] = [in_subprocess(name, setting, options.device)]
            except Exception as error:
                found.errors[name] = reason(error)
        yield rows(MEASURE, setting, found, "MiB"), verdicts(MEASURE, setting, found, options.kind)


def in_subprocess(name: str, setting: Setting, device: torch.device) -> float:
    """MiB."""
    command = [sys.executable, "-m", "benchmarks.pipeline.memory", name, json.dumps(asdict(setting))]
    command += [str(device), str(torch.get_num_threads())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise Unavailable((done.stderr.strip().splitlines() or ["it stopped without a word"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def peak(name: str, setting: Setting, device: torch.device) -> float:
    """MiB above what was there before the step; a step on two images has gone before, so that libraries are loaded."""
    from .training import drawn, pipeline, step

    made = pipeline(name, setting, device)
    x, grad = drawn(setting, torch.Generator().manual_seed(0), device)
    step(made, x[:2], grad[:2])
    gc.collect()
    if device.type == "cuda":
        step(made, x, grad)  # what kernels are tuned with, and libraries keep, is not the step's
        gc.collect()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(made, x, grad)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step(made, x, grad)
    return (resident("VmHWM") - before) / 2**10


def give_back() -> None:
    """Free memory that malloc still holds, else the step would find it resident."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident(field: str) -> int:
    """KiB, from the kernel's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise Unavailable(f"the kernel doesn't tell {field}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline.memory", description=__doc__.split("\n")[0])
    parser.add_argument("contender")
    parser.add_argument("setting", type=json.loads)
    parser.add_argument("device", nargs="?", default="cpu", type=torch.device)
    parser.add_argument("threads", nargs="?", default=2, type=int)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(json.dumps(peak(given.contender, Setting(**given.setting), given.device)))


if __name__ == "__main__":
    main()
