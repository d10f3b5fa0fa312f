"""One training step of the canonicalizer: forward, prior + contrastive + artifact loss, backward to the network.

Everything outside the network is the step without the network's passes, forward and backward, on ready rows: two, or
one where the contender knows that the artifact loss is 0 (there and back by permutations is nothing; eager and ours).
Dropout is off, so that the losses and gradients of two contenders can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ..harness import contenders, eager
from ..harness.measure import Case, Contender, Options, largest_difference, noted, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import GROUPS, Setting
from .canonicalize import SUFFIX, split

MEASURE = "training step"
OUTSIDE = "training step, outside the network"
ALONE = "network on ready rows, forward and backward"

#: Ours without the shortcut of C4 and D4, in a row of its own.
ALL_PASSES = "ours, second pass run"

#: Of the loss, and of gradients relative to the largest of them all.
TOLERANCE = 2e-2
ROUGH = 0.2


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    for group in GROUPS:
        setting = options.setting(Setting(group, batch=options.batch()))
        options.log(f"{MEASURE}: {setting}")
        timings = run(case(setting, options.device), options)
        whole, alone, outside = split(timings, comparable=not eager.exact(group))
        for name, part in ((MEASURE, whole), (ALONE, alone), (OUTSIDE, outside)):
            yield rows(name, setting, part), verdicts(name, setting, part, options.kind)


def names(setting: Setting, device: torch.device) -> list[str]:
    """``compile`` for C4 only, where it has its best chance: the others take minutes to compile on two cores."""
    chosen = [n for n in contenders.pipelines(device) if n != "compile" or setting.group == "C4"]
    return chosen + [ALL_PASSES] * eager.exact(setting.group)


def pipeline(name: str, setting: Setting, device: torch.device) -> contenders.Pipeline:
    kind = contenders.AllPasses if name == ALL_PASSES else contenders.pipelines(device)[name]
    made = kind(setting, device, artifact=True)
    made.dropout(0.0)
    return made.train(True)


def step(made: contenders.Pipeline, x: Tensor) -> tuple[Tensor, ...]:
    """The sum of the losses, and the gradients of the network's parameters."""
    loss = sum(made.losses(x))
    return (loss.detach(), *torch.autograd.grad(loss, list(made.network.parameters())))


def passes(made: contenders.Pipeline, members: Tensor) -> tuple[Tensor, ...]:
    """What of that is the network's: its passes, forward and backward."""
    loss = sum(made.network(members).square().mean() for _ in range(made.passes))
    return torch.autograd.grad(loss, list(made.network.parameters()))


def case(setting: Setting, device: torch.device) -> Case:
    made: dict[str, contenders.Pipeline] = {}

    def get(name: str) -> contenders.Pipeline:
        if name not in made:
            made[name] = pipeline(name, setting, device)
        return made[name]

    def whole(name: str):
        first = get(name)
        return noted(lambda x, members: partial(step, first, x), first.note)

    def alone(name: str):
        first = get(name)
        note = "one pass" if first.passes == 1 else "two passes"
        return noted(lambda x, members: partial(passes, first, members), note)

    both = ("equiadapt", contenders.ours(device))
    entries = [Contender(name, partial(whole, name)) for name in names(setting, device)]
    entries += [Contender(name + SUFFIX, partial(alone, name), checked=False) for name in both]
    entries.append(contenders.limit(lambda x, members: x.clone()))

    def inputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = setting.images(generator, device)
        return x, setting.images(generator, device, (setting.order * setting.batch, *setting.small))

    def compare(got: tuple, expected: tuple, name: str) -> str | None:
        return agree(got, expected, exact=setting.group in ("C4", "D4"))

    return Case(MEASURE, setting, inputs, entries, "eager", compare)


def agree(got: tuple, expected: tuple, *, exact: bool) -> str | None:
    """Loss and gradients agree; only roughly where the artifact loss draws rotations that interpolate."""
    tolerance = TOLERANCE if exact else ROUGH
    (loss, *gradients), (loss_, *gradients_) = got, expected
    if wrong := largest_difference(loss, loss_, tolerance * loss_.abs().item()):
        return f"loss {wrong}"
    # One scale for all: a bias before a batch normalization has no gradient but rounding.
    scale = max(gradient.abs().max().item() for gradient in gradients_)
    for a, b in zip(gradients, gradients_, strict=True):
        if wrong := largest_difference(a, b, tolerance * scale):
            return f"gradient {wrong}"
    return None
