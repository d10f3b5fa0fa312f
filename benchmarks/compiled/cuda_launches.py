"""What calls of real sizes launch: blocks, threads and shared memory, as the host code of csrc/cuda decides on an H100.

The emulation of tests/emulation lists launches instead of running them (``EQUIFAST_LAUNCHES``), so this takes a second.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from equifast.groups import as_group

from ..harness.results import ROOT

#: Bytes of shared memory of a multiprocessor, of which each block takes 1024 more than it asks for.
MULTIPROCESSOR = 228 << 10

DTYPES = {"float32": torch.float32, "TF32": torch.float32, "bfloat16": torch.bfloat16}

#: Batch, image, output channels, kernel, stride.
LAYERS = {
    "first layer": (256, 96, 16, 7, 2),
    "wide first layer": (256, 96, 64, 7, 2),
    "patches": (64, 224, 768, 16, 16),
}


class Launch(NamedTuple):
    problem: str
    kernel: str
    blocks: int
    threads: int
    shared: int

    @property
    def resident(self) -> int:
        """Blocks that shared memory leaves room for on a multiprocessor."""
        return MULTIPROCESSOR // (self.shared + 1024)


def table(name: str) -> list[float]:
    return list(as_group(name).action_table(inverse=True))


def problems() -> Iterator[tuple[str, str, Callable[[], tuple]]]:
    """(what it is, op, its arguments); nobody reads what is in the tensors."""

    def images(batch: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(batch, 3, size, size, dtype=dtype)

    for group in ("C4", "C8"):
        action = (table(group), [], [], "border")
        order = as_group(group).order
        yield f"orbit, {group}, 256×3×96×96", "orbit", lambda a=action: (images(256, 96), None, *a, False)
        yield (
            f"its gradient, {group}",
            "orbit_average",
            lambda a=action, e=order: (images(e * 256, 96).unflatten(0, (e, 256)), None, *a, True),
        )
        element = torch.zeros(256, dtype=torch.int64)
        yield f"act, {group}, 256×3×224×224", "act", lambda a=action, e=element: (images(256, 224), e, *a, False)
        yield (
            f"straight-through, {group}",
            "orbit_inner",
            lambda a=action: (images(256, 224), images(256, 224), *a),
        )
    for name, layer in LAYERS.items():
        for kind, dtype in DTYPES.items():
            group = "C4"
            forward, backward = _convolution(layer, group, dtype, kind == "TF32")
            yield f"{name}, {group}, {kind}", "orbit_conv2d", forward
            yield f"its gradients, {kind}", "orbit_conv2d_backward", backward
    vectors, reference = torch.empty(8 * 512, 128), torch.empty(128)
    yield "losses, B 512, E 8, d 128", "orbit_losses", lambda: (vectors, reference, None, 8, 1.0, 1.0, True, False)


def _convolution(layer: tuple[int, ...], group: str, dtype: torch.dtype, tf32: bool) -> tuple[Callable, Callable]:
    batch, size, channels, kernel, stride = layer
    places = (size - kernel) // stride + 1

    def tensors() -> tuple[Tensor, Tensor]:
        return torch.empty(batch, 3, size, size, dtype=dtype), torch.empty(channels, 3, kernel, kernel, dtype=dtype)

    options = (table(group), [stride] * 2, [0, 0], [1, 1], "border")

    def backward() -> tuple:
        grad = torch.empty(as_group(group).order * batch, channels, places, places, dtype=dtype)
        return grad, *tensors(), *options, [True] * 3, tf32

    return lambda: (*tensors(), None, *options, "none", tf32), backward


@functools.cache
def launches() -> list[Launch]:
    """In a process of its own, whose emulation runs nothing."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"EQUIFAST_LAUNCHES": str(Path(folder, "launches")), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", __name__]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(run.stderr[-4000:])
        return [Launch(*row) for row in json.loads(run.stdout)]


def _listed() -> Iterator[Launch]:
    from tests.emulation.build import build

    torch.ops.load_library(build("plain"))
    file = Path(os.environ["EQUIFAST_LAUNCHES"])
    for problem, op, args in problems():
        file.write_text("")
        getattr(torch.ops.equifast_emulated, op)(*args())
        for line in file.read_text().splitlines():
            kernel, *numbers = line.split("\t")
            yield Launch(problem, kernel, *map(int, numbers))


def lines() -> list[str]:
    """A table for docs/cuda_kernels.md."""
    found = [
        "## What real sizes launch",
        "",
        "As the host code decides on a multiprocessor count and shared memory of an H100. The last column: blocks that",
        "shared memory leaves room for on a multiprocessor, to be compared with those that registers do, above.",
        "",
        "| problem | launch | blocks | threads | KiB shared | fit |",
        "|---|---|---|---|---|---|",
    ]
    before = ""
    for row in launches():
        name = row.problem if row.problem != before else ""
        shared = f"{row.shared / 1024:.3g}"
        found.append(f"| {name} | {row.kernel} | {row.blocks} | {row.threads} | {shared} | {row.resident} |")
        before = row.problem
    return [*found, ""]


if __name__ == "__main__":
    print(json.dumps(list(_listed())))
