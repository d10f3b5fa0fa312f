"""`orbit_conv2d`: the network's first layer and a ViT's patch embedding, forward, and backward to the weight.

The limit is a copy or a square matrix product of as many operations, whichever takes longer. The copy is of the output
on a CPU; on a GPU it moves as many bytes as reading x and writing the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import equifast

from ..harness import contenders, eager
from ..harness.measure import Case, Contender, Options, Spread, Timings, Work, direct, largest_difference, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import DTYPES, GROUPS, Setting

FORWARD = "orbit_conv2d"
BACKWARD = "orbit_conv2d, backward (weight)"

LIMITS = ("limit: copy", "limit: product")


def layers(options: Options) -> list[tuple[Setting, int, int, int]]:
    """(setting, output channels, kernel, stride)."""
    batch, patches = options.batch(), options.batch(cpu=16)
    first = [(Setting(g, batch=batch, size=96, layers=0, label="7×7, stride 2, 16"), 16, 7, 2) for g in GROUPS]
    vit = Setting("C4", batch=patches, layers=0, label="ViT patches 16×16, stride 16, 768")
    return [*first, (vit, 32, 8, 8) if options.dry else (vit, 768, 16, 16)]


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    for setting, channels, kernel, stride in layers(options):
        setting = options.setting(setting)
        for name, make in ((FORWARD, forward), (BACKWARD, backward)):
            options.log(f"{name}: {setting}")
            timings = one_limit(run(make(setting, channels, kernel, stride, options.device), options))
            yield rows(name, setting, timings), verdicts(name, setting, timings, options.kind)


def forward(setting: Setting, channels: int, kernel: int, stride: int, device: torch.device) -> Case:
    plain, ours = ways(setting.group, stride)
    entries = [
        Contender("eager", lambda: direct(plain)),
        Contender("compile", lambda: direct(torch.compile(plain, dynamic=False))),
        Contender(contenders.ours(device), lambda: direct(ours)),
        *limits(setting, channels, kernel, stride, device),
    ]
    _, done = work(setting, channels, kernel, stride)
    return Case(FORWARD, setting, inputs(setting, channels, kernel, device), entries, "eager", compare(setting), done)


def backward(setting: Setting, channels: int, kernel: int, stride: int, device: torch.device) -> Case:
    """The forward pass isn't timed; eager keeps the orbit from it, ours makes it again."""

    def bind(function):
        def bound(x: Tensor, weight: Tensor):
            leaf = weight.detach().requires_grad_()
            y = function(x, leaf)
            grad = torch.ones_like(y)
            return lambda: torch.autograd.grad(y, leaf, grad, retain_graph=True)[0]

        return bound

    plain, ours = ways(setting.group, stride)
    entries = [
        Contender("eager", lambda: bind(plain)),
        Contender(contenders.ours(device), lambda: bind(ours)),
        *limits(setting, channels, kernel, stride, device),
    ]
    _, done = work(setting, channels, kernel, stride)
    return Case(BACKWARD, setting, inputs(setting, channels, kernel, device), entries, "eager", compare(setting), done)


def ways(group: str, stride: int):
    """Plain and ours: ``(x, weight) -> y``."""

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(eager.orbit(x, group), weight, stride=stride)

    return plain, partial(equifast.orbit_conv2d, group=group, stride=stride)


def work(setting: Setting, channels: int, kernel: int, stride: int) -> tuple[tuple[int, ...], Work]:
    """The output's shape; reading x and writing the output (or, backward, reading both)."""
    size = (setting.size - kernel) // stride + 1
    shape = (setting.order * setting.batch, channels, size, size)
    flops = 2 * math.prod(shape) * setting.channels * kernel**2
    return shape, Work(setting.bytes + math.prod(shape) * DTYPES[setting.dtype].itemsize, flops)


def limits(setting: Setting, channels: int, kernel: int, stride: int, device: torch.device) -> list[Contender]:
    dtype = DTYPES[setting.dtype]
    shape, done = work(setting, channels, kernel, stride)

    def copy():
        count = math.prod(shape) if device.type == "cpu" else done.moved // (2 * dtype.itemsize)
        out = torch.rand(count, device=device).to(dtype)
        return direct(lambda x, weight: out.clone())

    def product():
        return direct(contenders.matmul(done.flops, device, dtype))

    return [Contender(LIMITS[0], copy, checked=False), Contender(LIMITS[1], product, checked=False)]


def one_limit(timings: Timings) -> Timings:
    """With the longer of the two limits as the limit."""
    found = {name: timings.times.pop(name) for name in LIMITS if name in timings.times}
    if found:
        longest = max(found, key=lambda name: Spread.of(found[name]).median)
        timings.times["limit"] = found[longest]
        timings.notes["limit"] = longest.partition(": ")[2]
        if timings.work is not None:
            done = {"limit_moved": timings.work.moved} if longest == LIMITS[0] else {"limit_flops": timings.work.flops}
            timings.work = replace(timings.work, **done)
    return timings


def inputs(setting: Setting, channels: int, kernel: int, device: torch.device):
    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = (channels, setting.channels, kernel, kernel)
        weight = torch.rand(shape, generator=generator) - 0.5
        return setting.images(generator, device), weight.to(device, DTYPES[setting.dtype])

    return make


def compare(setting: Setting):
    def agree(got: Tensor, expected: Tensor, name: str) -> str | None:
        tolerance = contenders.TOLERANCE[setting.dtype]
        return largest_difference(got, expected, tolerance * max(expected.abs().max().item(), 1.0))

    return agree
