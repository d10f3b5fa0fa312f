"""The straight-through choice: its backward gives ∂L/∂p_e = ⟨∂L/∂y, g_e⁻¹x⟩ for every element."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import equifast

from ..harness import contenders, eager, gradients, limits
from ..harness.cache import Thunk
from ..harness.measure import Case, Contender, Options, largest_difference, noted, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import GROUPS, Setting
from ..harness.timings import Work

BACKWARD = "straight-through backward"
BOTH = "straight-through, forward and backward"

#: Eager with no more memory than ours needs; `eager` itself may be quicker with a whole orbit at full resolution.
NOTHING_KEPT = "eager, nothing kept"


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    for group in options.chosen(GROUPS):
        setting = options.setting(Setting(group, batch=options.batch(), layers=0))
        for name in (BACKWARD, BOTH):
            options.log(f"{name}: {setting}")
            timings = run(case(name, setting, options.device), options)
            yield rows(name, setting, timings), verdicts(name, setting, timings, options.kind)


def case(name: str, setting: Setting, device: torch.device) -> Case:
    """Each way is a forward pass that returns its backward pass; ``name`` says whether the former is timed too."""

    def inputs(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        x, grad = setting.images(generator, device), setting.images(generator, device) - 0.5
        return x, grad, torch.randn(setting.batch, setting.order, generator=generator).to(device)

    def bind(way: Callable[..., Thunk]):
        if name == BOTH:
            return lambda x, grad, activations: lambda: way(x, grad, activations, setting.group)()
        return lambda x, grad, activations: way(x, grad, activations, setting.group)

    def plain():
        drawn = inputs(torch.Generator().manual_seed(0))
        ways = {"orbit kept": kept, "orbit made again": again}
        thunks = {label: bind(way)(*drawn) for label, way in ways.items()}
        label, _ = eager.quickest({k: lambda _, thunk=thunk: thunk() for k, thunk in thunks.items()}, drawn[0])
        return noted(bind(ways[label]), label)

    def compiled():
        return bind(partial(again, products=torch.compile(gradients.inner_products, dynamic=False)))

    entries = [Contender("eager", plain)]
    entries.append(Contender(NOTHING_KEPT, lambda: bind(again)))
    entries += [Contender("compile", compiled)] * (name == BACKWARD)
    entries.append(Contender(contenders.ours(device), lambda: bind(ours)))
    copied = 2 * setting.bytes  # backward reads two batches of images, forward reads one and writes one
    entries += limits.copies(copied, device, lambda x, grad, activations: x.clone())
    work = Work(copied * (1 + (name == BOTH)), limit_moved=copied)
    return Case(name, setting, inputs, entries, "eager", compare, work)


def kept(x: Tensor, grad: Tensor, activations: Tensor, group: str) -> Thunk:
    """The whole orbit stays in memory from forward to backward, and the image is gathered from it."""
    members = eager.orbit(x, group).unflatten(0, (-1, x.shape[0]))
    members[activations.argmax(1), torch.arange(x.shape[0], device=x.device)]
    return lambda: through_softmax(torch.einsum("ebchw,bchw->be", members, grad), activations)


def again(x: Tensor, grad: Tensor, activations: Tensor, group: str, products: Callable | None = None) -> Thunk:
    """Only x stays; backward makes the members one by one."""
    eager.act_by_element(x, activations.argmax(1), group)
    return lambda: through_softmax((products or gradients.inner_products)(x, grad, group), activations)


def ours(x: Tensor, grad: Tensor, activations: Tensor, group: str) -> Thunk:
    leaf = activations.detach().requires_grad_()
    form = equifast.canonicalize(x, None, None, group=group, activations=leaf)
    return lambda: torch.autograd.grad(form.image, leaf, grad, retain_graph=True)[0]


def through_softmax(grad: Tensor, activations: Tensor) -> Tensor:
    """From ∂L/∂p to ∂L/∂activations."""
    p = activations.softmax(1)
    return p * (grad - (p * grad).sum(1, keepdim=True))


def compare(got: Tensor, expected: Tensor, name: str) -> str | None:
    return largest_difference(got, expected, 1e-3 * expected.abs().max().item())
