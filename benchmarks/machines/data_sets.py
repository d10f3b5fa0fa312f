"""`equifast canonicalize` over photographs that are drawn here, by one and by two processes."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from equifast.nn import ConvNetwork

SIDES = (512, 384)


def classifier() -> nn.Module:
    """What scores the orbits."""
    torch.manual_seed(0)
    return ConvNetwork((3, 96, 96), out_vector_size=10)


def draw(folder: Path, count: int) -> None:
    """JPEG files of 512×384 pixels, of about 60 kB each."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        pixels = sum(
            F.interpolate(torch.rand(1, 3, side, side, generator=generator), SIDES[::-1], mode="bicubic") * weight
            for side, weight in ((4, 150), (60, 100))
        )
        raw = pixels[0].clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy().tobytes()
        buffer = io.BytesIO()
        Image.frombytes("RGB", SIDES, raw).save(buffer, "JPEG", quality=90)
        (folder / f"{i:05}.jpg").write_bytes(buffer.getvalue())


def seconds(source: Path, output: Path, group: str, processes: int) -> float:
    """Seconds of processor time that all processes together take, above what they take to start and find all done.

    Each process has one thread, and no workers.
    """
    return _run(source, output, group, processes) - _run(source, output, group, processes)


def _run(source: Path, output: Path, group: str, processes: int) -> float:
    command = [sys.executable, "-m", "equifast.command", "canonicalize", str(source), str(output)]
    command += ["--network", "benchmarks.machines.data_sets:classifier", "--group", group, "--size", "96"]
    before = _children()
    started = [
        subprocess.Popen(
            [*command, "--workers", "0"],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
        )
        for rank in range(processes)
    ]
    if any([process.wait() for process in started]):
        raise RuntimeError(f"failed: {' '.join(command)}")
    return _children() - before


def _children() -> float:
    """Seconds of processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
