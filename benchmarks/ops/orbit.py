"""`orbit`: the batch that the network sees, at its size; the limit is `repeat`, which writes the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import equifast

from ..harness import contenders, eager, limits, published
from ..harness.measure import Case, Contender, Options, direct, largest_difference, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import GROUPS, Setting
from ..harness.timings import Work

MEASURE = "orbit"


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    for group in options.chosen(GROUPS):
        setting = options.setting(Setting(group, batch=options.batch(), size=96, layers=0))
        options.log(f"{MEASURE}: {setting}")
        timings = run(case(setting, options.device), options)
        yield rows(MEASURE, setting, timings), verdicts(MEASURE, setting, timings, options.kind)


def case(setting: Setting, device: torch.device) -> Case:
    group = setting.group
    plain = partial(eager.orbit, group=group)
    moved = (1 + setting.order) * setting.bytes
    entries = [
        Contender("equiadapt", lambda: direct(published_orbit(setting), published.note())),
        Contender("eager", lambda: direct(plain)),
        Contender("compile", lambda: direct(torch.compile(plain, dynamic=False))),
        Contender(contenders.ours(device), lambda: direct(partial(equifast.orbit, group=group))),
        *limits.copies(moved, device, lambda x: x.repeat(setting.order, 1, 1, 1), "repeat"),
    ]

    def compare(got: torch.Tensor, expected: torch.Tensor, name: str) -> str | None:
        return largest_difference(got, expected, contenders.TOLERANCE[setting.dtype])

    def inputs(generator: torch.Generator) -> tuple[torch.Tensor]:
        return (setting.images(generator, device),)

    return Case(MEASURE, setting, inputs, entries, "eager", compare, Work(moved, limit_moved=moved))


def published_orbit(setting: Setting):
    """Pad, rotate, crop in a loop, then `cat`."""
    turned = published.rotation(setting.size)
    n = int(setting.group[1:])

    def orbit(x: torch.Tensor) -> torch.Tensor:
        members = []
        for reflect in range(setting.order // n):
            for j in range(n):
                member = turned(x, torch.full((x.shape[0],), -360.0 * j / n, device=x.device))
                members.append(member.flip(-1) if reflect else member)
        return torch.cat(members)

    return orbit
