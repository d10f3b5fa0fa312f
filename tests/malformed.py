"""Arguments of ops with something wrong: each argument of a sample in turn, in each way that its type can be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .samples import Sample

#: Numbers that overflow 32 bits, and that overflow 64 bits when they are doubled or multiplied.
HUGE = (2**31 - 1, 2**31, 2**62, 2**63 - 1)


def malformed(sample: Sample) -> Iterator[Sample]:
    """The sample, with one argument changed. Not each is an error: a smaller crop is as good as another."""
    for i, arg in enumerate(sample.args):
        for wrong in wrong_values(arg):
            yield Sample(sample.op, (*sample.args[:i], wrong, *sample.args[i + 1 :]))


def wrong_values(arg: Any) -> Iterator[Any]:
    if isinstance(arg, bool):
        yield not arg
    elif isinstance(arg, int):
        yield from (0, -1, arg + 1, *HUGE, -(2**63))
    elif isinstance(arg, float):
        yield from (0.0, -arg, torch.nan, torch.inf, -torch.inf, 1e300)
    elif isinstance(arg, str):
        yield from ("", "wrap", arg + " ")
    elif isinstance(arg, Tensor):
        yield from _wrong_tensors(arg)
    elif isinstance(arg, list | tuple):
        yield from _wrong_lists(list(arg))


def _wrong_lists(values: list) -> Iterator[list]:
    yield []
    yield values[:-1]
    yield values + values[-1:]
    for i in sorted({0, len(values) // 2, len(values) - 1} if values else ()):
        for wrong in wrong_values(values[i]):
            yield [*values[:i], wrong, *values[i + 1 :]]


def _wrong_tensors(t: Tensor) -> Iterator[Tensor]:
    yield t[None]
    yield t.to_sparse()
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.int32, torch.bool, torch.complex64):
        if dtype != t.dtype:
            yield t.to(dtype)
    if t.dtype == torch.int64:
        yield from (t - 1, t + 1, t + 2**40, t - 2**63, t + (2**63 - 2))
    if t.dim():
        yield t.select(0, 0) if t.shape[0] else t.sum(0)
    for axis in range(t.dim()):
        if t.shape[axis]:
            yield t.narrow(axis, 0, t.shape[axis] - 1)
            yield t.narrow(axis, 0, 0)
            yield torch.cat((t, t.narrow(axis, 0, 1)), axis)
