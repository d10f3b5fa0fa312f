"""Host overhead: how long a call of each op takes to return, on images so small that the device is never waited for.

On a CPU that is the call itself, so only a GPU's run has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from equifast import ops, reference

from ..harness import contenders, limits
from ..harness.measure import Case, Contender, Options, direct, largest_difference, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import Setting

MEASURE = "host overhead"


def calls(setting: Setting) -> dict[str, tuple[Callable[..., tuple[Tensor, ...]], dict]]:
    """Of each op: its inputs, made of images (B, C, H, W) and random numbers; and its options."""
    e, b, d = setting.order, setting.batch, setting.vector

    def ids(x: Tensor) -> Tensor:
        return torch.arange(b, device=x.device) % e

    def numbers(x: Tensor, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(x) for shape in shapes)

    def layer(x: Tensor) -> tuple[Tensor, ...]:
        return x, *numbers(x, (16, setting.channels, 7, 7), (16,))

    return {
        "orbit": (lambda x: (x,), {}),
        "act": (lambda x: (x, ids(x)), {"inverse": True}),
        "orbit_average": (lambda x: (x.repeat(e, 1, 1, 1), *numbers(x, (b, e))), {}),
        "orbit_conv2d": (layer, {"stride": 2}),
        "orbit_conv2d_pool": (layer, {"stride": 2}),
        "orbit_scores": (lambda x: numbers(x, (e * b, d), (d,)), {}),
        "orbit_linear_scores": (lambda x: numbers(x, (e * b, d), (d, d), (d,), (d,)), {}),
        "contrastive_loss": (lambda x: numbers(x, (e * b, d)), {}),
        "orbit_losses": (lambda x: numbers(x, (e * b, d), (d,)), {}),
    }


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    if options.kind == "cpu":
        return
    for name in options.chosen(calls(Setting("C4"))):
        setting = options.setting(Setting("C4", batch=4, size=32, layers=0, label=name))
        options.log(f"{MEASURE}: {setting}")
        timings = run(case(setting, options.device), options)
        yield rows(MEASURE, setting, timings, "µs", 1e3), verdicts(MEASURE, setting, timings, options.kind)


def case(setting: Setting, device: torch.device) -> Case:
    """The op that the setting is labelled with, as its user calls it."""
    make, options = calls(setting)[setting.label]
    call = partial(getattr(ops, setting.label), group=setting.group, **options)
    plain = partial(getattr(reference, setting.label), group=setting.group, **options)
    entries = [
        Contender("reference", lambda: direct(plain)),
        Contender(contenders.ours(device), lambda: direct(call)),
        limits.nothing(lambda x, *rest: torch.empty_like(x)),
    ]

    def inputs(generator: torch.Generator) -> tuple[Tensor, ...]:
        return make(setting.images(generator, device))

    return Case(MEASURE, setting, inputs, entries, "reference", compare, clock="host")


def compare(got, expected, name: str) -> str | None:
    first = [out if isinstance(out, Tensor) else out.activations for out in (got, expected)]
    return largest_difference(*first, 1e-2 * max(first[1].abs().max().item(), 1.0))
