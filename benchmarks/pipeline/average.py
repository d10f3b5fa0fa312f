"""An average over the best members of each orbit (`CanonicalForm.average`), and the loops that people write for it.

A loop turns each image by its own element, runs the model, and for maps turns each output back. Without a model, maps
are the images themselves: what is left is turning there and back, and the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import equifast

from ..harness import contenders, turns
from ..harness.measure import Case, Contender, Options, direct, largest_difference, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import Setting, weights

MEASURE = "average"
ALONE = "without a model"

#: Groups, and over how many members of each orbit the average is.
FRAMES = (("C8", 2), ("C4", 2), ("C8", 4))


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    batch = options.batch(cpu=32, cuda=128)
    made = [(Setting(g, batch=batch, layers=0, label=f"{ALONE}, {k} members"), k) for g, k in FRAMES]
    made += [(Setting(g, batch=batch, size=96, label=f"{k} members"), k) for g, k in FRAMES[:1]]
    for setting, count in options.chosen(made):
        setting = options.setting(setting)
        options.log(f"{MEASURE}: {setting}")
        timings = run(case(setting, count, options.device), options)
        yield rows(MEASURE, setting, timings), verdicts(MEASURE, setting, timings, options.kind)


def case(setting: Setting, count: int, device: torch.device) -> Case:
    is_map = setting.label.startswith(ALONE)
    model = (lambda rows: rows) if is_map else classifier(setting, device)

    def looped(name: str):
        turn = turns.TURNS[name]()
        return direct(partial(loop, setting=setting, count=count, turn=turn, model=model, is_map=is_map))

    def ours(x: Tensor, activations: Tensor) -> Tensor:
        options = {"group": setting.group, "padding_mode": "zeros", "estimator": "none"}
        form = equifast.canonicalize(x, activations=activations, **options)
        return form.average(model, x, top_k=count, representation="trivial" if is_map else "invariant")

    entries = [Contender(name, partial(looped, name)) for name in turns.TURNS]
    entries.append(Contender(contenders.ours(device), lambda: direct(ours)))

    def inputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = setting.images(generator, device)
        return x, torch.randn(setting.batch, setting.order, generator=generator).to(device)

    def compare(got: Tensor, expected: Tensor, name: str) -> str | None:
        inner = slice(got.shape[-1] // 4, -got.shape[-1] // 4)  # at the edge, 0 is blended in differently
        pair = (got[..., inner, inner], expected[..., inner, inner]) if is_map else (got, expected)
        return largest_difference(*pair, contenders.TOLERANCE["float32"] * (1 if is_map else 10))

    return Case(MEASURE, setting, inputs, entries, "eager", compare)


def classifier(setting: Setting, device: torch.device) -> torch.nn.Module:
    """The network of the other measures, which has the size of a small classifier."""
    network = equifast.nn.ConvNetwork(setting.small, 16, 7, setting.layers, setting.vector)
    network.load_state_dict(weights(setting)[0])
    return network.to(device).eval()


def loop(
    x: Tensor,
    activations: Tensor,
    *,
    setting: Setting,
    count: int,
    turn: turns.Turn,
    model: Callable[[Tensor], Tensor],
    is_map: bool,
) -> Tensor:
    """``Σ_i w_i · g_i·model(g_i⁻¹·x)`` over the best elements, which are rotations, with their probabilities."""
    best, element = activations.topk(count, 1)
    weights, total = best.softmax(1), torch.zeros(())
    for i in range(count):
        degrees = element[:, i] * (360 / setting.order)
        y = model(turn(x, -degrees))
        y = turn(y, degrees) if is_map else y
        total = total + weights[:, i].reshape(-1, *[1] * (y.dim() - 1)) * y
    return total
