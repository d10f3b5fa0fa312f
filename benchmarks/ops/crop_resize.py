"""`crop_resize`: what the network sees, forward, and backward to the images.

The limit is a copy of as many bytes: forward those of the crop and of the output, backward those of the gradient and of
the images, half of them read and half written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache, partial

import torch
from torch import Tensor

import equifast

from ..harness import contenders, eager, limits
from ..harness.measure import Bind, Case, Contender, Options, direct, largest_difference, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import DTYPES, Setting
from ..harness.timings import Work

FORWARD = "crop_resize"
BACKWARD = "crop_resize, backward"


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    batch = options.batch()
    settings = [
        Setting("C4", batch=batch, layers=0),
        Setting("C4", batch=batch, layers=0, layout="channels_last"),
        Setting("C4", batch=batch, layers=0, dtype="bfloat16"),
        Setting("C4", batch=1, size=1024, layers=0, label="SAM"),
    ]
    for setting in options.chosen(settings):
        setting = options.setting(setting)
        for name, make in ((FORWARD, forward), (BACKWARD, backward)):
            options.log(f"{name}: {setting}")
            timings = run(make(setting, options.device), options)
            yield rows(name, setting, timings), verdicts(name, setting, timings, options.kind)


def forward(setting: Setting, device: torch.device) -> Case:
    plain = partial(eager.crop_resize, setting=setting)
    bytes_read = setting.bytes * setting.crop**2 // setting.size**2
    moved = bytes_read + small_bytes(setting)
    entries = [
        Contender("eager", lambda: direct(plain)),
        Contender("compile", lambda: direct(torch.compile(plain, dynamic=False))),
        Contender(contenders.ours(device), lambda: direct(ours(setting))),
        *copies(moved, setting, device),
    ]

    def inputs(generator: torch.Generator) -> tuple[Tensor]:
        return (setting.images(generator, device),)

    return Case(FORWARD, setting, inputs, entries, "eager", compare(setting), Work(moved, limit_moved=moved))


def backward(setting: Setting, device: torch.device) -> Case:
    """The forward pass isn't timed."""

    def bind(function) -> Bind:
        def bound(x: Tensor, grad: Tensor):
            leaf = x.detach().requires_grad_()
            small = function(leaf)
            return lambda: torch.autograd.grad(small, leaf, grad, retain_graph=True)[0]

        return bound

    moved = setting.bytes + small_bytes(setting)
    entries = [
        Contender("eager", lambda: bind(partial(eager.crop_resize, setting=setting))),
        Contender(contenders.ours(device), lambda: bind(ours(setting))),
        *copies(moved, setting, device),
    ]

    def inputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = setting.images(generator, device)
        return x, setting.images(generator, device, (setting.batch, *setting.small)) - 0.5

    return Case(BACKWARD, setting, inputs, entries, "eager", compare(setting), Work(moved, limit_moved=moved))


def ours(setting: Setting):
    start, side = round((setting.size - setting.crop) / 2), setting.crop
    return partial(equifast.crop_resize, size=setting.resize, crop=(start, start, side, side))


def small_bytes(setting: Setting) -> int:
    """Of the images that come out."""
    return setting.batch * math.prod(setting.small) * DTYPES[setting.dtype].itemsize


def copies(moved: int, setting: Setting, device: torch.device) -> list[Contender]:
    """The limit; on a CPU a copy to memory that is there already."""
    dtype = DTYPES[setting.dtype]

    @cache
    def pair() -> tuple[Tensor, Tensor]:
        source = torch.rand(moved // (2 * dtype.itemsize)).to(dtype)
        return torch.empty_like(source), source

    def plain(*inputs: Tensor) -> Tensor:
        out, source = pair()
        return out.copy_(source)

    return limits.copies(moved, device, plain)


def compare(setting: Setting):
    def differs(got: Tensor, expected: Tensor, name: str) -> str | None:
        return largest_difference(got, expected, contenders.TOLERANCE[setting.dtype])

    return differs
