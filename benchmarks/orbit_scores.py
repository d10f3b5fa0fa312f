"""`orbit_scores`, contrastive and prior loss, forward and backward to the vectors and the reference."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import equifast

from . import contenders, eager
from .harness import Case, Contender, Options, largest_difference, run
from .results import Row, rows, verdicts
from .settings import Setting

MEASURE = "orbit_scores and losses"
SETTING = Setting("C8", batch=512, channels=128, size=1, layers=0)


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    setting = options.setting(SETTING)
    options.log(f"{MEASURE}: {setting}")
    timings = run(case(setting, options.device), options)
    yield rows(MEASURE, setting, timings), verdicts(MEASURE, setting, timings, options.device.type)


def case(setting: Setting, device: torch.device) -> Case:
    order, group = setting.order, setting.group

    def plain(vectors: Tensor, reference: Tensor) -> tuple[Tensor, ...]:
        activations = eager.scores(vectors, reference, order)
        probabilities, element = activations.softmax(1), activations.argmax(1)
        loss = eager.prior(activations) + eager.contrastive(vectors, order)
        return loss, probabilities, element

    def ours(vectors: Tensor, reference: Tensor) -> tuple[Tensor, ...]:
        scores = equifast.orbit_scores(vectors, reference, group=group)
        loss = equifast.losses.prior_loss(scores.activations)
        loss = loss + equifast.losses.contrastive_loss(vectors, group=group)
        return loss, scores.probabilities, scores.element

    def bind(function):
        def bound(vectors: Tensor, reference: Tensor):
            leaves = [t.detach().requires_grad_() for t in (vectors, reference)]

            def thunk() -> tuple[Tensor, ...]:
                loss, probabilities, _ = function(*leaves)
                return (loss.detach(), probabilities.detach(), *torch.autograd.grad(loss, leaves))

            return thunk

        return bound

    entries = [
        Contender("eager", lambda: bind(plain)),
        Contender("compile", lambda: bind(torch.compile(plain, dynamic=False))),
        Contender(contenders.ours(device), lambda: bind(ours)),
        contenders.limit(lambda vectors, reference: vectors.clone()),
    ]

    def inputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        vectors = torch.randn(order * setting.batch, setting.vector, generator=generator)
        return vectors.to(device), torch.randn(setting.vector, generator=generator).to(device)

    return Case(MEASURE, setting, inputs, entries, "eager", compare)


def compare(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], name: str) -> str | None:
    for a, b in zip(got, expected, strict=True):
        if wrong := largest_difference(a, b, 1e-4 * b.abs().max().item()):
            return wrong
    return None
