"""`orbit_logit_scores`: confidence and energy of a classifier's logits, forward, and forward with backward.

The limit is a copy of as many bytes as are read and written: forward the logits, backward these again and their
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

import equifast
from equifast import scores
from equifast.choice import select

from ..harness import contenders, limits
from ..harness.measure import COMPILE, Case, Contender, Options, largest_difference, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import DTYPES, Setting
from ..harness.timings import Work
from .orbit_scores import both_ways, forward

FORWARD = "orbit_logit_scores"
BOTH = "orbit_logit_scores, with backward"

#: Classes of ImageNet and of MNIST, batch and dtype.
SETTINGS = [
    Setting("C8", batch=batch, channels=classes, size=1, layers=0, vector=classes, dtype=dtype)
    for classes, batch, dtype in (
        (1000, 256, "float32"),
        (1000, 256, "bfloat16"),
        (1000, 32, "float32"),
        (10, 256, "float32"),
    )
]

SCORES = ("confidence", "energy")


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    # In a dry run several settings become one.
    for setting in dict.fromkeys(map(options.setting, options.chosen(SETTINGS))):
        for score in SCORES:
            labelled = replace(setting, label=score)
            for name in (FORWARD, BOTH):
                options.log(f"{name}: {labelled}")
                timings = run(case(labelled, options.device, name), options)
                found = name, labelled, timings
                yield rows(*found, "µs", 1e3), verdicts(*found, options.kind)


def case(setting: Setting, device: torch.device, name: str = FORWARD) -> Case:
    order, group, score = setting.order, setting.group, setting.label or SCORES[0]
    function, dtype = scores.NAMED[score], DTYPES[setting.dtype]

    def loss(found) -> tuple[Tensor, ...]:
        return found.probabilities[:, 0].sum(), found.probabilities, found.element

    def plain(logits: Tensor) -> tuple[Tensor, ...]:
        return loss(select(function(logits).view(order, -1).t()))

    def ours(logits: Tensor) -> tuple[Tensor, ...]:
        return loss(equifast.orbit_logit_scores(logits, group=group, score=score))

    bind: Callable = forward if name == FORWARD else both_ways
    entries = [Contender("eager", lambda: bind(plain)), Contender(contenders.ours(device), lambda: bind(ours))]
    entries.insert(1, Contender(COMPILE, lambda: bind(torch.compile(plain, dynamic=False))))
    once = order * setting.batch * setting.vector * dtype.itemsize
    moved = once if name == FORWARD else 3 * once
    entries += limits.copies(moved, device, lambda logits: logits.clone())

    def inputs(generator: torch.Generator) -> tuple[Tensor]:
        logits = 4 * torch.randn(order * setting.batch, setting.vector, generator=generator)
        return (logits.to(device, dtype),)

    return Case(name, setting, inputs, entries, "eager", compare, Work(moved, limit_moved=2 * once))


def compare(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], name: str) -> str | None:
    for a, b in zip(got, expected, strict=True):
        if wrong := largest_difference(a, b, (1e-4 if b.dtype == torch.float32 else 1e-2) * b.abs().max().item()):
            return wrong
    return None
