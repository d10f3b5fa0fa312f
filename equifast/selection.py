"""Which of two GPU backends runs a call where both can: what was measured decides, in `selection.json`.

``python -m benchmarks.backends`` times CUDA C++ and Triton kernels against each other on a GPU and writes that file: a
row for each op, dtype and class of shapes. What has no row follows `default`. No GPU has run either yet, so no row is
there. With one backend forced or usable, nothing is selected (`equifast.backends`).
"""

from __future__ import annotations

import functools
import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

TABLE = Path(__file__).with_name("selection.json")


class Scale(NamedTuple):
    """Classes of shapes: the largest size of each, and what lies beyond them is `larger`."""

    size: Callable[[Sequence[int]], int]
    limits: tuple[int, ...]
    names: tuple[str, ...]

    def __call__(self, shape: Sequence[int]) -> str:
        return self.names[bisect_left(self.limits, self.size(shape))]


PIXELS = Scale(lambda shape: shape[-2] * shape[-1], (64**2, 256**2), ("64x64", "256x256", "larger"))
CHANNELS = Scale(lambda shape: shape[0], (16, 64), ("16 channels", "64 channels", "larger"))
VECTOR = Scale(lambda shape: shape[-1], (128,), ("d 128", "larger"))


class Op(NamedTuple):
    """What classes an op's shapes fall into, and which argument tells: images, weight or vectors."""

    scale: Scale
    argument: int


#: Those of CUDA C++, which Triton has as well; of the others, csrc/cuda has no kernel.
OPS = {
    "orbit": Op(PIXELS, 0),
    "act": Op(PIXELS, 0),
    "orbit_average": Op(PIXELS, 0),
    "orbit_inner": Op(PIXELS, 0),
    "angle_inner": Op(PIXELS, 0),
    "orbit_conv2d": Op(CHANNELS, 1),
    "orbit_conv2d_backward": Op(CHANNELS, 2),
    "orbit_scores": Op(VECTOR, 0),
    "orbit_scores_backward": Op(VECTOR, 2),
    "contrastive_loss": Op(VECTOR, 0),
    "contrastive_loss_backward": Op(VECTOR, 1),
    "orbit_losses": Op(VECTOR, 0),
    "orbit_losses_backward": Op(VECTOR, 4),
}


def dtypes(op: str) -> tuple[str, ...]:
    """Kinds of numbers that rows tell apart: a layer of float32 that may multiply as TF32 is of its own."""
    plain = ("float64", "float32", "float16", "bfloat16")
    return (*plain, "tf32") if OPS[op].scale is CHANNELS else plain


def choose(op: str, args: Sequence) -> str:
    """``"cuda"`` or ``"triton"`` for a call with these arguments."""
    scale, argument = OPS[op]
    tensor = args[argument]
    tf32 = scale is CHANNELS and allows_tf32(tensor.dtype)
    return _decide(op, "tf32" if tf32 else tensor.dtype, scale(tensor.shape))


@functools.cache
def _decide(op: str, dtype: torch.dtype | str, shape_class: str) -> str:
    key = op, str(dtype).removeprefix("torch."), shape_class
    return table().get(key) or default(*key)


def default(op: str, dtype: str, shape_class: str) -> str:
    """Unmeasured. Triton for wide layers, since it has Hopper's matrix instructions; CUDA C++ for all else."""
    wide = OPS[op].scale is CHANNELS and shape_class == "larger"
    return "triton" if wide and dtype in ("tf32", "float16", "bfloat16") else "cuda"


@functools.cache
def table() -> dict[tuple[str, str, str], str]:
    """The faster backend by op, dtype and class, as far as measured."""
    return {(row["op"], row["dtype"], row["class"]): row["backend"] for row in load()}


def load(path: Path = TABLE) -> list[dict]:
    return json.loads(path.read_text())["rows"]


def store(rows: list[dict], path: Path = TABLE) -> None:
    """Adds rows to those that are there, in place of what they measure anew."""
    merged = {(row["op"], row["dtype"], row["class"]): row for row in [*(load(path) if path.exists() else ()), *rows]}
    lines = ",\n".join(f"  {json.dumps(merged[key])}" for key in sorted(merged))
    path.write_text('{"rows": [\n' + lines + "\n]}\n" if merged else '{"rows": []}\n')


def explain() -> dict[str, str]:
    """For people: of each op, how much was measured, and who runs it."""
    return {op: _explained(op) for op in OPS}


def _explained(op: str) -> str:
    keys = [(op, dtype, name) for dtype in dtypes(op) for name in OPS[op].scale.names]
    measured = [key for key in keys if key in table()]
    won = sum(table()[key] == "cuda" for key in measured)
    rest = {default(*key) for key in keys if key not in measured}
    parts = [f"{len(measured)} of {len(keys)} measured"]
    parts += [f"cuda in {won}, triton in {len(measured) - won}"] if measured else []
    if rest == {"cuda", "triton"}:
        parts.append("else cuda, but triton for more than 64 output channels on matrix units")
    elif rest:
        parts.append(f"else {rest.pop()}")
    return "; ".join(parts)


def allows_tf32(dtype: torch.dtype) -> bool:
    """Whether PyTorch may convolve in TF32."""
    return dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32"
