"""The floor of a whole pass: the network's operations at the rate of its quickest layer, and one copy of the images.

Layers and copy are timed in the same rounds as what the floor is of. A layer runs by itself, on rows that fit the
caches.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from . import eager
from .contenders import plain_network
from .measure import Bind, Contender, direct
from .settings import DTYPES, LAYOUTS, Setting
from .timings import Spread, Timings

FLOOR = "floor"

#: What is timed for it.
PART = f"{FLOOR}: "
COPY = f"{PART}copy"

#: Rows that a layer is timed on.
ROWS = 32


@dataclass(frozen=True)
class Layer:
    module: nn.Module
    rows: Tensor
    flops: int


def layers(setting: Setting) -> dict[str, Layer]:
    """The convolutions and matrix products of the network, each with what it gets of `ROWS` random rows."""
    network = plain_network(setting).eval()
    seen = {}

    def watch(name: str):
        return lambda module, inputs, output: seen.__setitem__(name, (inputs[0], output))

    watched = {name: m for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    handles = [module.register_forward_hook(watch(name)) for name, module in watched.items()]
    with torch.no_grad():
        network(torch.rand(ROWS, *setting.small))
    for handle in handles:
        handle.remove()
    return {
        PART + name: Layer(watched[name], rows, 2 * output.numel() * watched[name].weight[0].numel())
        for name, (rows, output) in seen.items()
    }


def contenders(setting: Setting, device: torch.device) -> list[Contender]:
    """What has to be timed: each layer, and the copy."""
    builds = {name: partial(_timed, layer, setting, device) for name, layer in layers(setting).items()}
    builds[COPY] = partial(_copy, setting, device)
    return [Contender(name, build, checked=False) for name, build in builds.items()]


def put(setting: Setting, timings: Timings) -> None:
    """One row in the place of its parts, summed up round by round."""
    if timings.warm is not None:
        put(setting, timings.warm)
    flops = {name: layer.flops for name, layer in layers(setting).items()}
    parts = {name: timings.times.pop(name) for name in [*flops, COPY] if name in timings.times}
    for name in [*flops, COPY]:
        timings.notes.pop(name, None)
        if name in timings.errors:
            timings.errors[FLOOR] = timings.errors.pop(name)
    if FLOOR in timings.errors:
        return
    rates = {name: [flops[name] / time for time in parts[name]] for name in flops}
    best = [max(found) for found in zip(*rates.values(), strict=True)]
    whole = setting.order * setting.batch * sum(flops.values()) / ROWS
    timings.times[FLOOR] = [whole / rate + copied for rate, copied in zip(best, parts[COPY], strict=True)]
    name = max(rates, key=lambda name: Spread.of(rates[name]).median)
    rate, copied = Spread.of(best).median / 1e6, Spread.of(parts[COPY]).median
    timings.notes[FLOOR] = f"{name.removeprefix(PART)} at {rate:.0f} GFLOP/s, copy {copied:.2g} ms"


def _timed(layer: Layer, setting: Setting, device: torch.device) -> Bind:
    """The layer in the quicker layout."""
    module, rows = (part.to(device, DTYPES[setting.dtype]) for part in (layer.module, layer.rows))
    ways = {}
    for name, layout in LAYOUTS.items():
        if rows.dim() == 4:
            laid_out = copy.deepcopy(module).to(memory_format=layout), rows.contiguous(memory_format=layout)
        else:
            laid_out = module, rows
        ways[name] = partial(lambda module, rows, _: module(rows), *laid_out)
    layout, way = eager.quickest(ways, rows)
    return direct(lambda *_: way(rows), layout)


def _copy(setting: Setting, device: torch.device) -> Bind:
    """On a CPU into memory that is there: of a fresh tensor the system's pages take longer than the copy."""
    if device.type != "cpu":
        return direct(lambda x, *_: x.clone())
    out = setting.images(torch.Generator().manual_seed(0), device)
    return direct(lambda x, *_: out.copy_(x))
