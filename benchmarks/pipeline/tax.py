"""The canonicalization tax: `canonicalize` as a share of one ResNet-50 forward pass on the same images at 224."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ..harness import contenders
from ..harness.measure import Case, Contender, Options, direct, run
from ..harness.network import resnet50
from ..harness.results import Row, rows, verdicts
from ..harness.settings import GROUPS, Setting

MEASURE = "tax"
NETWORK = "ResNet-50"


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    batch = options.batch(cpu=32)
    settings = [options.setting(Setting(group, batch=batch)) for group in options.chosen(GROUPS)]
    options.log(f"{MEASURE}: {', '.join(map(str, settings))}")
    timings = run(case(settings, options.device), options)
    for setting in settings:
        part = timings.only(setting.group)
        yield rows(MEASURE, setting, part), verdicts(MEASURE, setting, part, options.kind)


def case(settings: list[Setting], device: torch.device) -> Case:
    """One ResNet-50 for all groups: it takes longer than all the rest."""
    pipelines = contenders.pipelines(device)

    def infer(name: str, setting: Setting):
        return direct(pipelines[name](setting, device).train(False).infer)

    def network():
        return direct(resnet50().eval().to(device))

    entries = [Contender(NETWORK, network, checked=False)]
    for setting in settings:
        for name in ("eager", contenders.ours(device)):
            entries.append(Contender(f"{name}|{setting.group}", partial(infer, name, setting), checked=False))

    def inputs(generator: torch.Generator) -> tuple[Tensor]:
        return (settings[0].images(generator, device),)

    return Case(MEASURE, settings[0], inputs, entries, NETWORK, lambda got, expected, name: None)
