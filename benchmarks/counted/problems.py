"""The problems whose kernels are counted: images of true size, and few of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from equifast.groups import as_group
from tests.emulation import emulated

from ..compiled.cuda_launches import DTYPES, table

#: Batch, image, output channels, kernel and stride of a layer whose orbit is convolved.
LAYERS = {"first layer": (256, 96, 16, 7, 2), "wide first layer": (256, 96, 64, 7, 2)}

#: Which gradients of a convolution are wanted.
GRADIENTS = {"of x": [True, False, False], "of the weight": [False, True, True]}


class Call(NamedTuple):
    """Arguments of an op; how many values it computes or sums, and how many operations these take at least."""

    args: tuple
    values: int
    operations: int = 0


class Problem(NamedTuple):
    """``batch``: of the true size. ``call``: makes the arguments for a batch of any size."""

    name: str
    kind: str  # a key of cuda_launches.DTYPES
    op: str
    batch: int
    call: Callable[[int], Call]


class Found(NamedTuple):
    """What one more image of the batch costs. ``tensor_bytes``: of all arguments and outputs together."""

    counts: Counter[str]
    values: int
    operations: int
    tensor_bytes: int


def _random(*sizes: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0)).to(dtype)


def _images(batch: int, size: int, kind: str) -> Tensor:
    return _random(batch, 3, size, size, dtype=DTYPES[kind])


def _action(group: str) -> tuple:
    return table(group), [], [], "border"


def _resampling(group: str, kind: str) -> Iterator[Problem]:
    order, action = as_group(group).order, _action(group)

    def orbit(batch: int) -> Call:
        x = _images(batch, 96, kind)
        return Call((x, None, *action, False), order * x.numel())

    def average(batch: int) -> Call:
        y = _images(order * batch, 96, kind)
        return Call((y.unflatten(0, (order, batch)), None, *action, True), y.numel())

    def inner(batch: int) -> Call:
        x = _images(batch, 224, kind)
        return Call((x, x.clone(), *action), order * x.numel())

    def angle(batch: int) -> Call:
        x = _images(batch, 224, kind)
        element = torch.ones(batch, dtype=torch.int64)
        return Call((x, x.clone(), x.clone(), element, table(group), order, "border"), x.numel())

    def act(adjoint: bool) -> Callable[[int], Call]:
        def call(batch: int) -> Call:
            x = _images(batch, 224, kind)
            return Call((x, torch.ones(batch, dtype=torch.int64), *action, adjoint), x.numel())

        return call

    yield Problem(f"orbit, {group}, 3×96×96", kind, "orbit", 256, orbit)
    yield Problem(f"its gradient, {group}", kind, "orbit_average", 256, average)
    yield Problem(f"act by {360 // order}°, 3×224×224", kind, "act", 256, act(False))
    yield Problem(f"its gradient, {360 // order}°", kind, "act", 256, act(True))
    yield Problem(f"straight-through, {group}, 3×224×224", kind, "orbit_inner", 256, inner)
    yield Problem(f"angle, {group}, 3×224×224", kind, "angle_inner", 256, angle)


def _convolutions(name: str, group: str, kind: str) -> Iterator[Problem]:
    images, size, channels, kernel, stride = LAYERS[name]
    order, places = as_group(group).order, (size - kernel) // stride + 1
    options = (table(group), [stride] * 2, [0, 0], [1, 1], "border")

    def tensors(batch: int) -> tuple[Tensor, Tensor]:
        return _images(batch, size, kind), _random(channels, 3, kernel, kernel, dtype=DTYPES[kind])

    def work(batch: int) -> tuple[int, int]:
        values = order * batch * channels * places * places
        return values, 2 * values * 3 * kernel * kernel

    def forward(batch: int) -> Call:
        return Call((*tensors(batch), None, *options, "none", kind == "TF32"), *work(batch))

    def backward(needs: list[bool]) -> Callable[[int], Call]:
        def call(batch: int) -> Call:
            grad = _random(order * batch, channels, places, places, dtype=DTYPES[kind])
            return Call((grad, *tensors(batch), *options, needs, kind == "TF32"), *work(batch))

        return call

    yield Problem(f"{name}, {group}", kind, "orbit_conv2d", images, forward)
    for of, needs in GRADIENTS.items():
        yield Problem(f"{name}, {group}: gradient {of}", kind, "orbit_conv2d_backward", images, backward(needs))


def _losses(kind: str) -> Problem:
    def call(batch: int) -> Call:
        vectors, reference = _random(8 * batch, 128, dtype=DTYPES[kind]), _random(128, dtype=DTYPES[kind])
        return Call((vectors, reference, None, 8, 1.0, 1.0, True, False), vectors.numel())

    return Problem("losses, E 8, d 128", kind, "orbit_losses", 512, call)


def problems() -> Iterator[Problem]:
    """All problems. An op of the same kernels for both dtypes of a problem stands there twice."""
    for group in ("C4", "C8"):
        for kind in ("float32", "bfloat16"):
            yield from _resampling(group, kind)
    for name, group in (("first layer", "C4"), ("first layer", "C8"), ("wide first layer", "C4")):
        for kind in DTYPES:
            yield from _convolutions(name, group, kind)
    for kind in ("float32", "bfloat16"):
        yield _losses(kind)


def _bytes(values: object) -> int:
    """Of all tensors among these."""
    if isinstance(values, Tensor):
        return values.nbytes
    return sum(map(_bytes, values)) if isinstance(values, (tuple, list)) else 0


def launches(problem: Problem, batch: int) -> tuple[list, Found]:
    """(kernel, Counts) of what a call launches, and the sums of all."""
    emulated.ops()
    (runner,) = emulated.LAUNCHES
    call = problem.call(batch)
    runner.counted = counted = []
    try:
        out = getattr(torch.ops.equifast_emulated, problem.op)(*call.args)
    finally:
        runner.counted = None
    counts = sum((each.total() for _, each in counted), Counter())
    return counted, Found(counts, call.values, call.operations, _bytes(call.args) + _bytes(out))


def found(problem: Problem) -> Found:
    """The counts of two images less those of one."""
    one, two = (launches(problem, batch)[1] for batch in (1, 2))
    more = Counter(two.counts)
    more.subtract(one.counts)
    return Found(more, *(b - a for a, b in zip(one[1:], two[1:], strict=True)))
