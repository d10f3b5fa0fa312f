"""`equifast canonicalize` on a folder of photographs' size, by one and by several processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..harness.network import resnet50

#: Width and height of the pictures, and about how many pixels their shapes are wide.
SIZE, GRAIN = (640, 480), 32

REPOSITORY = Path(__file__).resolve().parents[2]


class Setting(NamedTuple):
    """Processes of this machine, and the cores that they have together."""

    processes: int
    cores: int


def measure(setting: Setting, images: int) -> float:
    """Images a second, of all processes together, as the command reports them when it is through."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        write_pictures(source, images)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={setting.processes}", "-m", "equifast.command", "canonicalize"]
        command += [str(source), str(output), "--network", f"{__name__}:{network.__name__}", "--group", "C4"]
        threads = str(setting.cores // setting.processes)
        cores = sorted(os.sched_getaffinity(0))[: setting.cores]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": threads},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    reports = re.findall(r"(\d+) images, ([\d.]+)/s: .* 0 broken", done.stderr)
    assert sum(int(count) for count, _ in reports) == images, done.stderr
    return sum(float(rate) for _, rate in reports)


def network() -> nn.Module:
    """The same weights in every process, without which the command refuses a run."""
    torch.manual_seed(0)
    return resnet50()


def write_pictures(folder: Path, count: int) -> None:
    """Smooth noise as JPEG. What is on a picture does not matter to the time."""
    generator = np.random.default_rng(0)
    for i in range(count):
        coarse = generator.integers(0, 256, (SIZE[1] // GRAIN, SIZE[0] // GRAIN, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{i:05}.jpg", quality=90)
