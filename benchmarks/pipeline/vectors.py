"""Images to vectors at inference: the exact orbit and the network, all that an inference engine can be given.

In float32, and with everything inside in bfloat16: images and vectors are float32 there too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..harness import contenders, engines
from ..harness.measure import OPENVINO, Case, Contender, Options, direct, largest_difference, noted, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import GROUPS, Setting

MEASURE = "images to vectors"
NARROW = "inside in bfloat16"

#: How far vectors may be from each other, as a share of the largest value.
TOLERANCE, NARROW_TOLERANCE = 1e-3, 3e-2


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    for setting in options.chosen(settings(options)):
        setting = options.setting(setting)
        options.log(f"{MEASURE}: {setting}")
        timings = run(case(setting, options.device), options)
        yield rows(MEASURE, setting, timings), verdicts(MEASURE, setting, timings, options.kind)


def settings(options: Options) -> list[Setting]:
    made = [Setting(group, batch=options.batch(), size=96) for group in GROUPS]
    made.append(Setting("C4", batch=1, size=96, label="latency"))
    return made + [replace(setting, label=NARROW) for setting in made if not setting.label] * (options.kind == "cpu")


def case(setting: Setting, device: torch.device) -> Case:
    make = narrow if setting.label == NARROW else wide
    tolerance = NARROW_TOLERANCE if setting.label == NARROW else TOLERANCE

    def inputs(generator: torch.Generator) -> tuple[Tensor]:
        return (setting.images(generator, device),)

    def compare(got: Tensor, expected: Tensor, name: str) -> str | None:
        return largest_difference(got, expected, tolerance * expected.abs().max().item())

    return Case(MEASURE, setting, inputs, make(setting, device), "eager", compare)


def wide(setting: Setting, device: torch.device) -> list[Contender]:
    def build(kind: type[contenders.Pipeline]):
        return direct(kind(setting, device).train(False).vectors)

    return [Contender(name, partial(build, kind)) for name, kind in engines.pipelines(device).items()]


def narrow(setting: Setting, device: torch.device) -> list[Contender]:
    """`eager` stays in float32, to compare with."""

    def converted(kind: type[contenders.Pipeline]):
        made = kind(setting, device).train(False)
        made.module.bfloat16()
        return direct(lambda images: made.vectors(images.bfloat16()).float())

    def engine():
        return direct(engines.openvino(setting, "bf16"))

    def plain():
        return noted(direct(contenders.Eager(setting, device).train(False).vectors), "float32")

    ours = contenders.ours(device)
    return [
        Contender("eager", plain),
        Contender("eager, bfloat16", partial(converted, contenders.Eager)),
        Contender(OPENVINO, engine),
        Contender(ours, partial(converted, contenders.pipelines(device)[ours])),
    ]
