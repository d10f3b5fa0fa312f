"""`orbit_scores`, contrastive and prior loss, forward and backward to the vectors and the reference.

On a GPU each way also by itself, enqueued in a loop and from a CUDA graph: a kernel takes less time than its launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

import equifast

from ..harness import contenders, eager, limits
from ..harness.cache import Thunk
from ..harness.measure import COMPILE, Case, Contender, Options, largest_difference, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import Setting
from ..harness.timings import Work

MEASURE = "orbit_scores and losses"
FORWARD = "orbit_scores and losses, forward"
BACKWARD = "orbit_scores and losses, backward"
SETTING = Setting("C8", batch=512, channels=128, size=1, layers=0)

#: Labels, and what the harness calls them.
CLOCKS = {"enqueued": "stream", "CUDA graph": "graph"}

#: Ours by an op for each: scores, prior loss, contrastive loss.
SEPARATE = "ours, op by op"


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    setting = options.setting(SETTING)
    for made in (case(setting, options.device), *(each_way(setting, options.device) if options.kind == "cuda" else ())):
        options.log(f"{made.measure}: {made.setting}")
        timings = run(made, options)
        found = made.measure, made.setting, timings
        unit = ("ms", 1.0) if made.measure == MEASURE else ("µs", 1e3)
        yield rows(*found, *unit), verdicts(*found, options.kind)


def each_way(setting: Setting, device: torch.device) -> Iterator[Case]:
    for label, clock in CLOCKS.items():
        for name in (FORWARD, BACKWARD):
            yield case(replace(setting, label=label), device, name, clock)


def case(setting: Setting, device: torch.device, name: str = MEASURE, clock: str = "stream") -> Case:
    order, group = setting.order, setting.group

    def plain(vectors: Tensor, reference: Tensor) -> tuple[Tensor, ...]:
        activations = eager.scores(vectors, reference, order)
        probabilities, element = activations.softmax(1), activations.argmax(1)
        loss = eager.prior(activations) + eager.contrastive(vectors, order)
        return loss, probabilities, element

    def ours(vectors: Tensor, reference: Tensor) -> tuple[Tensor, ...]:
        found = equifast.orbit_losses(vectors, reference, group=group)
        return found.prior + found.contrastive, found.probabilities, found.element

    def separate(vectors: Tensor, reference: Tensor) -> tuple[Tensor, ...]:
        scores = equifast.orbit_scores(vectors, reference, group=group)
        loss = equifast.losses.prior_loss(scores.activations)
        loss = loss + equifast.losses.contrastive_loss(vectors, group=group)
        return loss, scores.probabilities, scores.element

    ways = {"eager": plain, contenders.ours(device): ours, SEPARATE: separate}
    bind = {MEASURE: both_ways, FORWARD: forward, BACKWARD: backward}[name]
    entries = [Contender(label, lambda way=way: bind(way)) for label, way in ways.items()]
    if name == MEASURE:
        entries.insert(1, Contender(COMPILE, lambda: bind(torch.compile(plain, dynamic=False))))
    once = order * setting.batch * setting.vector * 4
    entries += limits.copies(2 * once, device, lambda vectors, reference: vectors.clone())

    def inputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        vectors = torch.randn(order * setting.batch, setting.vector, generator=generator)
        return vectors.to(device), torch.randn(setting.vector, generator=generator).to(device)

    passes = {MEASURE: 3, FORWARD: 1, BACKWARD: 2}[name]  # backward reads them and writes as many
    return Case(name, setting, inputs, entries, "eager", compare, Work(passes * once, limit_moved=2 * once), clock)


Function = Callable[..., tuple[Tensor, ...]]


def both_ways(function: Function) -> Callable[..., Thunk]:
    def bound(*inputs: Tensor) -> Thunk:
        leaves = [t.detach().requires_grad_() for t in inputs]

        def thunk() -> tuple[Tensor, ...]:
            loss, probabilities, _ = function(*leaves)
            return (loss.detach(), probabilities.detach(), *torch.autograd.grad(loss, leaves))

        return thunk

    return bound


def forward(function: Function) -> Callable[..., Thunk]:
    """As in training: what backward needs is kept."""

    def bound(*inputs: Tensor) -> Thunk:
        leaves = [t.detach().requires_grad_() for t in inputs]
        return lambda: tuple(t.detach() for t in function(*leaves)[:2])

    return bound


def backward(function: Function) -> Callable[..., Thunk]:
    def bound(*inputs: Tensor) -> Thunk:
        leaves = [t.detach().requires_grad_() for t in inputs]
        loss = function(*leaves)[0]
        return lambda: torch.autograd.grad(loss, leaves, retain_graph=True)

    return bound


def compare(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], name: str) -> str | None:
    for a, b in zip(got, expected, strict=True):
        if wrong := largest_difference(a, b, 1e-4 * b.abs().max().item()):
            return wrong
    return None
