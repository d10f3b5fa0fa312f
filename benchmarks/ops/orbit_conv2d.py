"""`orbit_conv2d`: the network's first layer and a ViT's patch embedding, forward, and backward to the weight.

The limit is a copy or a square matrix product of as many operations, whichever takes longer. The copy is of the output
on a CPU; on a GPU it moves as many bytes as reading x and writing the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

import equifast

from ..harness import contenders, eager, limits
from ..harness.measure import Case, Contender, Options, direct, largest_difference, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import DTYPES, GROUPS, Setting
from ..harness.timings import Work

FORWARD = "orbit_conv2d"
BACKWARD = "orbit_conv2d, backward (weight)"


def layers(options: Options) -> list[tuple[Setting, int, int, int]]:
    """(setting, output channels, kernel, stride)."""
    batch, patches = options.batch(), options.batch(cpu=16)
    first = [(Setting(g, batch=batch, size=96, layers=0, label="7×7, stride 2, 16"), 16, 7, 2) for g in GROUPS]
    vit = Setting("C4", batch=patches, layers=0, label="ViT patches 16×16, stride 16, 768")
    return [*first, (vit, 32, 8, 8) if options.dry else (vit, 768, 16, 16)]


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    for setting, channels, kernel, stride in options.chosen(layers(options)):
        setting = options.setting(setting)
        for name, make in ((FORWARD, forward), (BACKWARD, backward)):
            options.log(f"{name}: {setting}")
            timings = run(make(setting, channels, kernel, stride, options.device), options)
            yield rows(name, setting, timings), verdicts(name, setting, timings, options.kind)


def forward(setting: Setting, channels: int, kernel: int, stride: int, device: torch.device) -> Case:
    plain, ours = ways(setting.group, stride)
    entries = [
        Contender("eager", lambda: direct(plain)),
        Contender("compile", lambda: direct(torch.compile(plain, dynamic=False))),
        Contender(contenders.ours(device), lambda: direct(ours)),
        *both_limits(setting, channels, kernel, stride, device),
    ]
    done = work(setting, channels, kernel, stride)
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
        *both_limits(setting, channels, kernel, stride, device),
    ]
    done = work(setting, channels, kernel, stride)
    return Case(BACKWARD, setting, inputs(setting, channels, kernel, device), entries, "eager", compare(setting), done)


def ways(group: str, stride: int):
    """Plain and ours: ``(x, weight) -> y``."""

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(eager.orbit(x, group), weight, stride=stride)

    return plain, partial(equifast.orbit_conv2d, group=group, stride=stride)


def outputs(setting: Setting, channels: int, kernel: int, stride: int) -> tuple[int, ...]:
    """Their shape."""
    size = (setting.size - kernel) // stride + 1
    return setting.order * setting.batch, channels, size, size


def work(setting: Setting, channels: int, kernel: int, stride: int) -> Work:
    """Reading x and writing the output (or, backward, reading both), and the limit likewise."""
    numbers = math.prod(outputs(setting, channels, kernel, stride))
    moved = setting.bytes + numbers * DTYPES[setting.dtype].itemsize
    flops = 2 * numbers * setting.channels * kernel**2
    return Work(moved, flops, moved, flops)


def both_limits(setting: Setting, channels: int, kernel: int, stride: int, device: torch.device) -> list[Contender]:
    dtype, done = DTYPES[setting.dtype], work(setting, channels, kernel, stride)

    @cache
    def written() -> Tensor:
        return torch.rand(outputs(setting, channels, kernel, stride)).to(dtype)

    copies = limits.copies(done.moved, device, lambda x, weight: written().clone())
    return [*copies, limits.product(done.flops, device, dtype)]


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
