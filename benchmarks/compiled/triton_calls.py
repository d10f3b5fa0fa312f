"""What `compiled` compiles for: each class of problems that kernels tell apart, most of them once.

Every configuration has its turn in float32 and bfloat16; the other types and layouts appear where they differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from equifast import TransformSet
from equifast.groups import Group, as_group
from equifast.representations import channel_action

Call = tuple[str, Callable[[], object]]

DTYPES = {
    "tf32": torch.float32,
    "ieee": torch.float32,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}


def calls() -> Iterator[Call]:
    """(problem, what calls kernels for it)."""
    yield from resamplings()
    yield from convolutions()
    yield from scores()


def images(dtype: str, channels: int, size: int, batch: int, last: bool) -> Tensor:
    order = torch.channels_last if last else torch.contiguous_format
    return torch.empty((batch, channels, size, size), dtype=DTYPES[dtype], memory_format=order)


class Resampling(NamedTuple):
    group: str
    dtype: str
    ops: str = "orbit act orbit_average orbit_inner"
    adjoint: bool = False
    channels: int = 3
    size: int = 224
    last: bool = False
    representation: str = "trivial"
    padding: str = "border"
    weighted: bool = False
    times: int = 1

    def __str__(self) -> str:
        shape = f"{self.channels}×{self.size}²"
        words = [self.group, "adjoint" if self.adjoint else "", shape, "channels_last" if self.last else "", self.dtype]
        words += [self.representation if self.representation != "trivial" else ""]
        words += [self.padding if self.padding != "border" else "", "weighted" if self.weighted else ""]
        words += [f"{self.times} times" if self.times > 1 else ""]
        return " ".join(filter(None, words))


#: Maps of which some stretch: the adjoint looks for the readers of a pixel in another way than a group's.
STRETCHED = TransformSet(angles=(0, 20, 90), scales=(1, (1.5, 0.7)))
SETS = {str(STRETCHED): STRETCHED}

#: Exact and interpolating groups, and a set; the sum besides a tile, the readers of an adjoint and its rays are what
#: costs registers.
RESAMPLINGS = [
    Resampling("C4", "fp32"),
    Resampling("C4", "bf16", "act orbit_inner"),
    Resampling("C8", "fp32", "orbit act orbit_average orbit_inner angle_inner"),
    Resampling("C8", "bf16", "orbit act orbit_average orbit_inner angle_inner"),
    Resampling("C8", "fp32", "orbit act orbit_average", adjoint=True),
    Resampling("C8", "bf16", "orbit orbit_average", adjoint=True),
    Resampling("C8", "fp32", "orbit", adjoint=True, weighted=True, padding="zeros"),
    Resampling("C8", "fp32", "orbit_average", weighted=True),
    Resampling("C4", "fp32", "orbit orbit_inner", channels=64, size=56, last=True),
    Resampling("C8", "fp32", "act orbit_average orbit_inner angle_inner", channels=64, size=56, last=True),
    Resampling("C8", "bf16", "act orbit_average", adjoint=True, channels=64, size=56, last=True),
    Resampling("C4", "bf16", "orbit_average", channels=16, size=56, last=True, representation="regular"),
    Resampling("C8", "fp32", "orbit_average orbit_inner", channels=4, representation="vector"),
    Resampling("C8", "fp32", "orbit_average", channels=4, representation="vector", adjoint=True),
    Resampling("C8", "fp32", "orbit_average orbit_inner", channels=64, size=56, last=True, representation="vector"),
    Resampling("C8", "fp64", "orbit_average", channels=64, size=56, last=True, adjoint=True),
    Resampling("C8", "fp64", "orbit orbit_inner angle_inner"),
    Resampling("C8", "fp64", "orbit_average", adjoint=True),
    Resampling("C8", "fp16", "act angle_inner", padding="zeros"),
    Resampling("C8", "fp32", "act", times=2),
    Resampling("C8", "bf16", "act", adjoint=True, times=2),
    Resampling("C8", "fp32", "orbit", size=16),
    Resampling(str(STRETCHED), "fp32", "orbit act orbit_average", adjoint=True),
    Resampling(str(STRETCHED), "bf16", "orbit act orbit_average", adjoint=True, channels=64, size=56, last=True),
    Resampling(str(STRETCHED), "fp64", "orbit_average", adjoint=True, padding="zeros"),
]


def resamplings() -> Iterator[Call]:
    from equifast.kernels import load

    for case in RESAMPLINGS:
        group = SETS.get(case.group) or as_group(case.group)
        table = group.action_table(inverse=True)
        channels = channel_action(group, case.representation, inverse=True)
        x = images(case.dtype, case.channels, case.size, 8, case.last)
        weights = torch.empty((8, group.order), dtype=x.dtype) if case.weighted else None
        options = table, *channels, case.padding
        element = torch.zeros(8, dtype=torch.int64)
        repeated = torch.zeros(8 * case.times, dtype=torch.int64)
        given = {
            "orbit": (x, weights, *options, case.adjoint),
            "act": (x, repeated, *options, case.adjoint),
            "orbit_average": (x, weights, *options, case.adjoint),
            "orbit_inner": (x, x, *options),
        }
        if isinstance(group, Group):
            given["angle_inner"] = x, x, x, element, table, group.n, case.padding
        for op in case.ops.split():
            yield str(case), lambda op=op, given=given: load(op)(*given[op])


class Layer(NamedTuple):
    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    size: int
    last: bool = False

    def __str__(self) -> str:
        stride = f" s{self.stride}" if self.stride > 1 else ""
        return f"{self.inputs}→{self.outputs} {self.kernel}×{self.kernel}{stride}{' channels_last' * self.last}"


CANONICALIZER, RESNET, VIT = Layer(3, 16, 7, 2, 0, 96), Layer(3, 64, 7, 2, 3, 224), Layer(3, 768, 16, 16, 0, 224)
INNER = Layer(64, 64, 3, 1, 1, 56, last=True)

#: With the group, whose members may need interpolated images, and the activation.
LAYERS = [
    (CANONICALIZER, "tf32", "C8", "gelu"),
    (CANONICALIZER, "bf16", "C4", "gelu"),
    (RESNET, "tf32", "C4", "relu"),
    (RESNET, "bf16", "C8", "none"),
    (VIT, "tf32", "C4", "none"),
    (VIT, "bf16", "C4", "none"),
    (INNER, "tf32", "C4", "relu"),
    (INNER, "bf16", "C4", "silu"),
    (INNER, "fp16", "C4", "relu"),
    (RESNET, "ieee", "C4", "relu"),
    (CANONICALIZER, "fp64", "C4", "relu"),
    (INNER, "fp64", "C4", "gelu"),
]


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    settings = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [s.fp32_precision for s in settings]
    for s in settings:
        s.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        for s, value in zip(settings, before, strict=True):
            s.fp32_precision = value


def convolutions() -> Iterator[Call]:
    """The op, its mean, the gradient before the mean, and the gradients of the op."""
    from equifast.kernels import orbit_conv2d, orbit_conv2d_backward, orbit_conv2d_pool

    for layer, dtype, group, activation in LAYERS:
        x, weight, bias, options = layer_tensors(layer, dtype, group)
        given = x, weight, bias, *options, activation
        rows = torch.empty((as_group(group).order * len(x), layer.outputs), dtype=x.dtype)
        name = f"{layer} {dtype} {group} {activation}"
        with tf32(dtype == "tf32"):
            out = orbit_conv2d.new_output(x, weight, as_group(group).order, *options[1:4])
            yield name, lambda given=given: orbit_conv2d.orbit_conv2d(*given)
            yield name, lambda given=given: orbit_conv2d_pool.orbit_conv2d_pool(*given)
            curved = "relu" if activation == "none" else activation  # else there is no product
            given = out, rows, x, weight, bias, *options, curved
            yield f"{layer} {dtype} {group} slope of {curved}", lambda given=given: orbit_conv2d.convolve_orbit(*given)
            given = out, x, weight, *options, (True, True, True)
            yield name, lambda given=given: orbit_conv2d_backward.orbit_conv2d_backward(*given)


def layer_tensors(layer: Layer, dtype: str, group: str) -> tuple[Tensor, Tensor, Tensor, tuple]:
    """x, weight, bias, and the options of all these ops."""
    x = images(dtype, layer.inputs, layer.size, 16, layer.last)
    memory_format = torch.channels_last if layer.last else torch.contiguous_format
    shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
    weight = torch.empty(shape, dtype=x.dtype, memory_format=memory_format)
    table = as_group(group).action_table(inverse=True)
    options = (table, (layer.stride,) * 2, (layer.padding,) * 2, (1, 1), "border")
    return x, weight, torch.empty(layer.outputs, dtype=x.dtype), options


def scores() -> Iterator[Call]:
    for dtype, order in (("fp32", 4), ("fp32", 8), ("fp32", 64), ("bf16", 8), ("fp16", 4), ("fp64", 8), ("fp64", 64)):
        for plain in (True, False) if (dtype, order) == ("fp32", 8) else (order == 64,):
            yield from losses(dtype, order, cosine=not plain)
    for kind in ("confidence", "margin", "negative_entropy", "energy", "class"):
        yield from logit_scores("fp32", 8, 1000, kind)
    yield from logit_scores("bf16", 4, 10, "confidence")
    yield from logit_scores("fp64", 8, 1000, "negative_entropy")
    yield from logit_scores("fp16", 64, 10, "class")
    for batch, order, dtypes in (
        (4096, 8, ("tf32", "ieee", "bf16", "fp16", "fp64")),
        (64, 8, ("tf32",)),
        (512, 64, ("tf32", "ieee", "bf16", "fp64")),
    ):
        for dtype in dtypes:
            problem = f"E {order}, f 512, d 128 {dtype}{', few' * (batch < 512)}"
            yield problem, lambda given=(dtype, batch, order): linear(*given)


def losses(dtype: str, order: int, cosine: bool) -> Iterator[Call]:
    """Scores, contrastive loss, both and the prior at once, and the gradients; cosine: of unit vectors."""
    from equifast.kernels import contrastive_loss as contrast
    from equifast.kernels import orbit_losses as both
    from equifast.kernels import orbit_scores as score

    batch = 64
    vectors = torch.empty((order * batch, 128), dtype=DTYPES[dtype])
    reference, target, scalar = vectors[0].clone(), torch.zeros(batch, dtype=torch.int64), vectors.new_empty(())
    a, p = vectors.new_empty((2, batch, order))
    gram = torch.empty((batch, order, order), dtype=torch.promote_types(vectors.dtype, torch.float32))
    grads, saved, options = (a, p, scalar, scalar), (a, p, gram), (1.0, 1.0, cosine, cosine)
    name = f"E {order}, d 128 {dtype}{' plain' * (not cosine)}"
    yield name, lambda: score.orbit_scores(vectors, reference, order, 1.0, cosine)
    yield name, lambda: score.orbit_scores_backward(a, p, vectors, reference, p, 1.0, cosine)
    yield name, lambda: contrast.contrastive_loss(vectors, order, cosine)
    yield name, lambda: contrast.contrastive_loss_backward(scalar, vectors, gram, cosine)
    name += ", with prior"
    yield name, lambda: both.orbit_losses(vectors, reference, target, order, *options)
    yield name, lambda: both.orbit_losses_backward(*grads, vectors, reference, target, *saved, *options)


def logit_scores(dtype: str, order: int, classes: int, kind: str) -> Iterator[Call]:
    """A score of logits, and its gradient."""
    from equifast.kernels import orbit_logit_scores as score

    batch = 64
    logits = torch.empty((order * batch, classes), dtype=DTYPES[dtype])
    index = torch.zeros(batch, dtype=torch.int64) if kind == "class" else None
    a, p = torch.empty((2, batch, order), dtype=torch.promote_types(logits.dtype, torch.float32))
    name = f"E {order}, K {classes} {dtype} {kind}"
    yield name, lambda: score.orbit_logit_scores(logits, index, order, kind, 1.0)
    yield name, lambda: score.orbit_logit_scores_backward(a, p, logits, index, p, kind, 1.0)


def linear(dtype: str, batch: int, order: int) -> None:
    from equifast.kernels.orbit_linear_scores import orbit_linear_scores

    features = torch.empty((order * batch, 512), dtype=DTYPES[dtype])
    weight, bias, reference = features.new_empty((128, 512)), features.new_empty(128), features.new_empty(128)
    with tf32(dtype == "tf32"):
        orbit_linear_scores(features, weight, bias, reference, order, 1.0, True)
