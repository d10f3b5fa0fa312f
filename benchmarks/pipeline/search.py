"""A search for the best rotation (``refine=``), from images to canonical images: ours, and the same loop by others.

A loop makes the members of C8 one after the other, and then in each round the two neighbours of each image's best. So
all make and score the same members; a grid as fine as the last round has 512. Without a network, the score of a member
is one product with each of its pixels: what is left is the search itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import equifast

from ..harness import contenders, eager, turns
from ..harness.measure import Case, Contender, Options, direct, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import CROP, Setting, weights

MEASURE = "search"
ALONE = "without a network"
GRID = "all 512 members"
ROUNDS = 6


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    batch = options.batch(cpu=16, cuda=64)
    made = [Setting("C8", batch=batch), Setting("C8", batch=4 * batch, layers=0, label=ALONE)]
    for setting in options.chosen([*made, Setting("C8", batch=1, layers=0, label=ALONE)]):
        setting = options.setting(setting)
        options.log(f"{MEASURE}: {setting}")
        timings = run(case(setting, options.device), options)
        yield rows(MEASURE, setting, timings), verdicts(MEASURE, setting, timings, options.kind)


def case(setting: Setting, device: torch.device) -> Case:
    network, reference = scored(setting, device)

    def looped(name: str):
        turn = turns.TURNS[name]()
        return direct(partial(loop, setting=setting, turn=turn, network=network, reference=reference))

    def ours(group: str, refine: int):
        module = equifast.nn.Canonicalizer(
            network, group, reference=reference, crop=CROP, resize=setting.resize, padding_mode="zeros", refine=refine
        ).eval()

        def infer(x: Tensor) -> tuple[Tensor, Tensor]:
            form = module(x)
            return form.image, form.element * (360 / form.group.order)

        return direct(infer)

    entries = [Contender(name, partial(looped, name)) for name in turns.TURNS]
    entries.append(Contender(contenders.ours(device), lambda: ours(setting.group, ROUNDS)))
    if setting.label != ALONE:
        finest = f"C{setting.order * 2**ROUNDS}"
        entries.append(Contender(GRID, lambda: ours(finest, 0), checked=False))

    def inputs(generator: torch.Generator) -> tuple[Tensor]:
        return (setting.images(generator, device),)

    return Case(MEASURE, setting, inputs, entries, "eager", same)


def scored(setting: Setting, device: torch.device) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A network and a reference vector, the same for all contenders."""
    if setting.label != ALONE:
        network = equifast.nn.ConvNetwork(setting.small, 16, 7, setting.layers, setting.vector)
        state, reference = weights(setting)
        network.load_state_dict(state)
        return network.to(device).eval(), reference.to(device)
    size = setting.channels * setting.resize**2
    weight = torch.randn(2, size, generator=torch.Generator().manual_seed(0)).to(device)
    return lambda members: members.flatten(1) @ weight.t(), torch.tensor([1.0, 0.0], device=device)


def loop(
    x: Tensor, *, setting: Setting, turn: turns.Turn, network: Callable[[Tensor], Tensor], reference: Tensor
) -> tuple[Tensor, Tensor]:
    """The canonical images, and the angle of each in degrees."""
    small = eager.crop_resize(x, setting)

    def score(rows: Tensor) -> Tensor:
        return F.cosine_similarity(network(rows), reference, dim=1)

    step = 360 / setting.order
    angles = torch.arange(setting.order, device=x.device) * step
    orbit = torch.stack([score(turn(small, -angle.expand(len(x)))) for angle in angles], 1)
    best, chosen = orbit.max(1)
    angle, twice = angles[chosen], torch.cat([small, small])
    for _ in range(ROUNDS):
        step /= 2
        asked = torch.stack([angle - step, angle + step])
        found = score(turn(twice, -asked.flatten())).view(2, len(x))
        for value, neighbour in zip(found, asked, strict=True):
            angle, best = torch.where(value > best, neighbour, angle), torch.maximum(best, value)
    return turn(x, -angle), angle % 360


def same(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], name: str) -> str | None:
    """Whether the angles are those of `loop` but for near ties, and the images where the angles are."""
    (image, angle), (image_, angle_) = got, expected
    mine = (angle - angle_).abs() < 1e-3
    if mine.double().mean() < 0.9:
        return f"other angles for {(~mine).sum()} of {len(mine)} images"
    inner = slice(image.shape[2] // 4, -image.shape[2] // 4)  # at the edge, 0 is blended in differently
    off = (image - image_)[mine][:, :, inner, inner].abs().max().item()
    return f"images differ by {off:.2g}" if off > contenders.TOLERANCE["float32"] else None
