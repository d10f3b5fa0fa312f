"""`canonicalize` at inference: the whole, the network alone, and by difference everything outside the network.

The inference engines run the orbit and the network; the crop, the resize and the canonical images are eager's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ..harness import contenders, engines, floor, limits, published
from ..harness.measure import COMPILE, Case, Contender, Options, direct, noted, run
from ..harness.results import Row, is_ours, rows, verdicts
from ..harness.settings import Setting, further, headline
from ..harness.timings import LIMIT, Timings, Work

MEASURE = "canonicalize"
OUTSIDE = "canonicalize, outside the network"
ALONE = "network on a ready orbit"
SUFFIX = ": network"


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    for setting in options.chosen(headline(options.kind) + further()):
        if options.dry and setting.group != "C4" and (setting.dtype == "float32") != (setting.layout == "NCHW"):
            continue
        setting = options.setting(setting)
        options.log(f"{MEASURE}: {setting}")
        timings = run(case(setting, options.device), options)
        floor.put(setting, timings)
        whole, alone, outside = split(timings)
        for name, part in ((MEASURE, whole), (ALONE, alone), (OUTSIDE, outside)):
            yield rows(name, setting, part), verdicts(name, setting, part, options.kind)


def case(setting: Setting, device: torch.device) -> Case:
    """All pipelines, each also with its network alone on the orbit that eager makes."""
    made: dict[str, contenders.Pipeline] = {}

    def get(name: str) -> contenders.Pipeline:
        if name not in made:
            made[name] = engines.pipelines(device)[name](setting, device).train(False)
        return made[name]

    def whole(name: str):
        infer = direct(get(name).infer)
        return noted(lambda x, members: infer(x), get(name).note)

    def alone(name: str):
        network = direct(get(name).alone)
        return lambda x, members: network(members)

    # Compiling takes longer than all rounds of those two, and twice for each of a GPU's twelve settings too long.
    left_out = COMPILE if setting.label in ("SAM", "CIFAR") else engines.FREEZING if device.type == "cuda" else None
    names = [name for name in engines.pipelines(device) if left_out is None or not name.startswith(left_out)]
    entries = [Contender(name, partial(whole, name), checked=comparable(name, setting)) for name in names]
    both = ("equiadapt", "eager", contenders.ours(device))
    entries += [Contender(name + SUFFIX, partial(alone, name), checked=False) for name in both]
    copied = 2 * setting.bytes
    entries += limits.copies(copied, device, lambda x, members: x.clone())
    entries += floor.contenders(setting, device)

    def inputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = setting.images(generator, device)
        members = setting.images(generator, device, (setting.order * setting.batch, *setting.small))
        return x, members

    def compare(got: tuple, expected: tuple, name: str) -> str | None:
        mask = partial(published.right, group=setting.group) if name == "equiadapt" else None
        return contenders.same_choice(got, expected, setting, where=mask)

    return Case(MEASURE, setting, inputs, entries, "eager", compare, Work(copied, limit_moved=copied))


def comparable(name: str, setting: Setting) -> bool:
    """Not equiadapt in bfloat16, whose grids are in bfloat16 too: positions are off by pixels."""
    return name != "equiadapt" or setting.dtype == "float32"


def split(timings: Timings, *, comparable: bool = True) -> tuple[Timings, Timings, Timings]:
    """The whole, the network alone, and the difference of the two in each round.

    From ours goes the quickest network of the round, whoever's; and as a network fused with its orbit may be quicker
    than any alone, a difference counts as no less than the limit: the time it takes to write the images that come out.
    Not ``comparable``: the networks do different amounts of work, so each contender's own is taken.
    """
    whole, alone, outside = Timings(), Timings(), Timings()
    for name, note in timings.notes.items():
        (alone if name.endswith(SUFFIX) else whole).notes[name.removesuffix(SUFFIX)] = note
    least = timings.times.get(LIMIT)
    for name, samples in timings.times.items():
        (alone if name.endswith(SUFFIX) else whole).times[name.removesuffix(SUFFIX)] = samples
    for name, why in timings.errors.items():
        (alone if name.endswith(SUFFIX) else whole).errors[name.removesuffix(SUFFIX)] = why
    for name, samples in whole.times.items():
        if name in alone.times:
            networks = alone.times.values() if is_ours(name) and comparable else [alone.times[name]]
            rounds = zip(samples, zip(*networks, strict=True), least or [0.0] * len(samples), strict=True)
            outside.times[name] = [max(all_ - min(network), copied) for all_, network, copied in rounds]
        elif name in alone.errors:
            outside.errors[name] = alone.errors[name]
    outside.work = timings.work
    if least:
        outside.times[LIMIT] = least
    outside.errors |= {name: why for name, why in whole.errors.items() if name in ("equiadapt", *alone.times)}
    if timings.warm is not None:
        whole.warm, alone.warm, outside.warm = split(timings.warm, comparable=comparable)
    return whole, alone, outside
