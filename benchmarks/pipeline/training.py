"""One training step of the canonicalizer: forward, prior + contrastive + artifact loss, backward to the network.

A gradient also comes back from the canonical images, such as a classifier sends. How it reaches the choice is the
estimator's: both "angle", which is equiadapt's only one, and "straight_through" are timed, against the same equiadapt.
Images are smooth: where a pixel is a kink, the derivative by the angle is whatever rounding makes of it.

Everything outside the network is the step without the network's passes, forward and backward, on ready rows: two, or
one where the contender knows that the artifact loss is 0 (there and back by permutations is nothing; eager and ours).
Dropout is off, so that the losses and gradients of two contenders can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..harness import contenders, eager, gradients, limits
from ..harness.measure import Case, Contender, Options, largest_difference, noted, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import DTYPES, GROUPS, LAYOUTS, Setting
from .canonicalize import SUFFIX, split

MEASURE = "training step"
OUTSIDE = "training step, outside the network"
ALONE = "network on ready rows, forward and backward"

#: Ours without the shortcut of C4 and D4, in a row of its own.
ALL_PASSES = "ours, second pass run"

#: Of the loss, and of gradients relative to the largest of them all.
TOLERANCE = 2e-2
DRAWN, BY_ANGLE = 0.1, 0.2


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    for group in options.chosen(GROUPS):
        setting = options.setting(Setting(group, batch=options.batch()))
        options.log(f"{MEASURE}: {setting}")
        timings = run(case(setting, options.device), options)
        for estimator in gradients.ESTIMATORS:
            labelled = replace(setting, label=estimator)
            whole, _, outside = split(timings.only(estimator), comparable=not eager.exact(group))
            for name, part in ((MEASURE, whole), (OUTSIDE, outside)):
                yield rows(name, labelled, part), verdicts(name, labelled, part, options.kind)
        _, alone, _ = split(timings)
        yield rows(ALONE, setting, alone), []


def names(setting: Setting, device: torch.device) -> list[str]:
    """Contenders, with their estimator after a bar where they have both.

    ``compile`` for C4 only, where it has its best chance: the others take minutes to compile on two cores.
    """
    chosen = [n for n in contenders.pipelines(device) if n != "compile" or setting.group == "C4"]
    both = [f"{name}|{estimator}" for name in chosen if name != "equiadapt" for estimator in gradients.ESTIMATORS]
    return ["equiadapt", *both] + [f"{ALL_PASSES}|straight_through"] * eager.exact(setting.group)


def pipeline(name: str, setting: Setting, device: torch.device) -> contenders.Pipeline:
    """Of a contender, with its estimator after a bar."""
    name, _, estimator = name.partition("|")
    kind = contenders.AllPasses if name == ALL_PASSES else contenders.pipelines(device)[name]
    made = kind(setting, device, artifact=True)
    made.estimator = estimator or made.estimator
    if isinstance(made, contenders.Eager):
        made.note = gradients.note(made.estimator, setting, device)
    made.dropout(0.0)
    return made.train(True)


def step(made: contenders.Pipeline, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The sum of the losses, and the gradients of the network's parameters; ``grad`` comes back from the images."""
    image, *losses = made.losses(x)
    loss = sum(losses)
    parameters = list(made.network.parameters())
    return (loss.detach(), *torch.autograd.grad((loss, image), parameters, (torch.ones_like(loss), grad)))


def drawn(setting: Setting, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Smooth images, and a gradient of them as large as the losses' own."""
    coarse = (*setting.shape[:2], *(-(-side // 8) for side in setting.shape[2:]))
    x, grad = (
        F.interpolate(torch.rand(coarse, generator=generator), setting.shape[2:], mode="bicubic") for _ in range(2)
    )
    dtype, layout = DTYPES[setting.dtype], LAYOUTS[setting.layout]
    grad = (grad - 0.5) * (8 / setting.size**2)
    return tuple(t.to(device, dtype).contiguous(memory_format=layout) for t in (x, grad))


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
        return noted(lambda x, grad, members: partial(step, first, x, grad), first.note)

    def alone(name: str):
        first = get(name)
        note = "one pass" if first.passes == 1 else "two passes"
        return noted(lambda x, grad, members: partial(passes, first, members), note)

    both = ("equiadapt", contenders.ours(device))
    entries = [Contender(name, partial(whole, name)) for name in names(setting, device)]
    entries += [Contender(name + SUFFIX, partial(alone, name), checked=False) for name in both]
    entries += limits.copies(2 * setting.bytes, device, lambda x, grad, members: x.clone())

    def inputs(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        members = setting.images(generator, device, (setting.order * setting.batch, *setting.small))
        return *drawn(setting, generator, device), members

    return Case(MEASURE, setting, inputs, entries, "eager|angle", partial(agree, setting))


def agree(setting: Setting, got: tuple, expected: tuple, name: str) -> str | None:
    """Loss and gradients agree.

    Gradients agree only roughly where the artifact loss draws rotations that interpolate, and more roughly by the
    angle, since a bilinear image has two derivatives at each pixel. Of equiadapt's gradients for reflections nothing
    is asked, as its images are wrong for some of them.
    """
    by_angle = not name.endswith("|straight_through")
    tolerance = BY_ANGLE if by_angle else TOLERANCE if eager.exact(setting.group) else DRAWN
    (loss, *gradients_), (loss_, *expected_) = got, expected
    if wrong := largest_difference(loss, loss_, TOLERANCE * loss_.abs().item()):
        return f"loss {wrong}"
    if name == "equiadapt" and setting.group[0] == "D":
        return None
    # One scale for all: a bias before a batch normalization has no gradient but rounding.
    scale = max(gradient.abs().max().item() for gradient in expected_)
    for a, b in zip(gradients_, expected_, strict=True):
        if wrong := largest_difference(a, b, tolerance * scale):
            return f"gradient {wrong}"
    return None
