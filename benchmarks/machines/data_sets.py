"""`equifast canonicalize` over photographs that are drawn here, by one and by two processes."""

from __future__ import annotations

import io
import os
import re
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


def rate(source: Path, output: Path, group: str, processes: int) -> float:
    """Images a second of all processes together, each with one thread and without workers."""
    command = [sys.executable, "-m", "equifast.command", "canonicalize", str(source), str(output)]
    command += ["--network", "benchmarks.machines.data_sets:classifier", "--group", group, "--size", "96"]
    started = [
        subprocess.Popen(
            [*command, "--workers", "0"],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    told = [process.communicate()[1] for process in started]
    found = [re.search(r"(\d+) images, ([\d.]+)/s", text) for text in told]
    if not all(found):
        raise RuntimeError(told[0])
    return sum(float(match[2]) for match in found if match)
