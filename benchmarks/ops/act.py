"""`act` at full resolution, one element a sample; the limit is `clone` of the images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

import equifast

from ..harness import contenders, eager, limits, published
from ..harness.measure import Case, Contender, Options, direct, largest_difference, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import Setting
from ..harness.timings import Work

#: Of each measure: groups, and which of their ids are drawn.
ELEMENTS = {
    "act, exact": {"C4": (0, 1, 2, 3), "D4": tuple(range(8))},
    "act, interpolated": {"C8": (1, 3, 5, 7)},
}


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    for name, groups in ELEMENTS.items():
        for group, ids in options.chosen(groups.items()):
            setting = options.setting(Setting(group, batch=options.batch(), layers=0))
            options.log(f"{name}: {setting}")
            timings = run(case(name, setting, ids, options.device), options)
            yield rows(name, setting, timings), verdicts(name, setting, timings, options.kind)


def case(name: str, setting: Setting, ids: tuple[int, ...], device: torch.device) -> Case:
    group = setting.group

    def plain():
        x, element = inputs(torch.Generator().manual_seed(0))
        ways = {act.__name__: partial(act, group=group) for act in eager.ACTS}
        name, way = eager.quickest(ways, x, element)
        return direct(way, name)

    copied = 2 * setting.bytes
    entries = [
        Contender("equiadapt", lambda: direct(published_act(setting), published.note())),
        Contender("eager", plain),
        Contender("compile", lambda: direct(torch.compile(partial(eager.act_by_grid, group=group), dynamic=False))),
        Contender(contenders.ours(device), lambda: direct(partial(equifast.act, group=group, inverse=True))),
        *limits.copies(copied, device, lambda x, element: x.clone()),
    ]

    def inputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = setting.images(generator, device)
        drawn = torch.tensor(ids)[torch.randint(len(ids), (setting.batch,), generator=generator)]
        return x, drawn.to(device)

    def compare(got: Tensor, expected: Tensor, name: str) -> str | None:
        return largest_difference(got, expected, contenders.TOLERANCE[setting.dtype])

    return Case(name, setting, inputs, entries, "eager", compare, Work(copied, limit_moved=copied))


def published_act(setting: Setting):
    """Pad, rotate each by its angle, crop, flip where it says so: in the order of its orbit, which is the right one."""
    turned = published.rotation(setting.size)
    n = int(setting.group[1:])

    def act(x: Tensor, element: Tensor) -> Tensor:
        y = turned(x, -(element % n) * (360.0 / n))
        if setting.group[0] == "C":
            return y
        flag = (element >= n).to(x.dtype)[:, None, None, None]
        return (1 - flag) * y + flag * y.flip(-1)

    return act
