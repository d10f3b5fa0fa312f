"""Arguments of every op, as ``torch.ops.equifast`` has it. A function that is named like an op yields them.

Each function asks `Choices` for its numbers, and names the usual one and a range. `samples` takes the usual numbers.
`tests/drawn.py` lets hypothesis draw them, so that both come from one function for each op.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from equifast.groups import Group, as_group
from equifast.layers import ACTIVATIONS, NORM_ACTIVATIONS, output_size
from equifast.representations import SIZES as REPRESENTATIONS
from equifast.representations import channel_action

from .cases import DTYPES, LAYOUTS, ids, rand


class Sample(NamedTuple):
    """Arguments of one op as ``torch.ops.equifast`` has it."""

    op: str
    args: tuple

    def run(self) -> tuple[Tensor, ...]:
        out = getattr(torch.ops.equifast, self.op)(*self.args)
        return out if isinstance(out, tuple) else (out,)

    def __repr__(self) -> str:
        """All but the values of tensors, which follow from shapes."""

        def told(arg):
            if isinstance(arg, list | tuple):
                return f"[{', '.join(map(told, arg))}]"
            return f"{str(arg.dtype)[6:]}{list(arg.shape)}{arg.stride()}" if isinstance(arg, Tensor) else repr(arg)

        return f"{self.op}({', '.join(map(told, self.args))})"

    def __str__(self) -> str:
        """A few words, for the name of a test."""

        def word(arg):
            if isinstance(arg, Tensor):
                return "x".join(map(str, arg.shape))
            if isinstance(arg, list | tuple):
                return f"[{','.join(map(word, arg)) if len(arg) < 4 else len(arg)}]"
            return str(arg)

        return "-".join([self.op, *map(word, self.args)])


@dataclass
class Choices:
    """What a sample is made of, and the usual numbers."""

    dtype: torch.dtype
    group: Group
    representation: str = "trivial"
    padding_mode: str = "border"
    flag: bool = False  # what is on in some samples and off in others
    batch: int = 2
    layout: str = "contiguous"
    requires_grad: bool = False

    def __post_init__(self):
        self.order = self.group.order
        self.wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.table = list(self.group.action_table(inverse=True))
        channels = channel_action(self.group, self.representation, inverse=True)
        self.action = (self.table, *map(list, channels), self.padding_mode)
        self._seeds = itertools.count()

    def size(self, usual: int, low: int, high: int) -> int:
        """A number from low to high."""
        return usual

    def one_of(self, usual: str, choices: Sequence[str]) -> str:
        return usual

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """The size of images."""
        return height, width

    def channels(self) -> int:
        """A number of channels that the representation acts on."""
        return self.size(1, 1, 3) * REPRESENTATIONS[self.representation](self.order)

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        values = rand(*shape, dtype=dtype or self.dtype, seed=next(self._seeds))
        return values.requires_grad_(self.requires_grad)

    def images(self, *shape: int) -> Tensor:
        """Images in this layout; all but the last three dimensions are batches."""
        *lead, c, h, w = shape
        values = rand(*shape, dtype=self.dtype, seed=next(self._seeds)).reshape(-1, c, h, w)
        return LAYOUTS[self.layout](values).unflatten(0, lead).detach().requires_grad_(self.requires_grad)


class Arguments(NamedTuple):
    """The function that yields the arguments of an op, and the dtypes that the op takes."""

    of: Callable[[Choices], Iterator[tuple]]
    dtypes: Sequence[torch.dtype]
    differentiable: bool


#: What each op is called with.
ARGUMENTS: dict[str, Arguments] = {}


def arguments(dtypes: Sequence[torch.dtype] = DTYPES, differentiable: bool = True):
    """Registers the function of the op that it is named like."""

    def register(function):
        ARGUMENTS[function.__name__] = Arguments(function, dtypes, differentiable)
        return function

    return register


#: Between them, every option is on and off at least once.
USUAL = [("C4", "trivial", "border", False), ("D3", "vector", "zeros", True), ("C8", "regular", "border", True)]


def samples(
    dtype: torch.dtype, *, batch: int = 2, layout: str = "contiguous", requires_grad: bool = False
) -> Iterator[Sample]:
    """Every op of schemas.txt, with each of its options on and off at least once."""
    for op, known in ARGUMENTS.items():
        if dtype in known.dtypes and (known.differentiable or not requires_grad):
            for name, *options in USUAL:
                choices = Choices(dtype, as_group(name), *options, batch, layout, requires_grad)
                yield from (Sample(op, args) for args in known.of(choices))


def _weights(k: Choices) -> tuple[Tensor | None, ...]:
    return None, k.new(k.batch, k.order, dtype=k.wide)


@arguments()
def orbit(k):
    h, w = k.shape(5, 5)
    c = k.channels()
    for weights in _weights(k):
        yield k.images(k.batch, c, h, w), weights, *k.action, k.flag


@arguments()
def orbit_average(k):
    h, w = k.shape(5, 6)
    c = k.channels()
    for weights in _weights(k):
        yield k.images(k.order, k.batch, c, h, w), weights, *k.action, k.flag
        yield k.images(k.batch, c, h, w), weights, *k.action, not k.flag


@arguments()
def act(k):
    h, w = k.shape(4, 5)
    for times in (1, k.size(3, 1, 4)):
        yield k.images(k.batch, k.channels(), h, w), ids(k.group, times * k.batch), *k.action, k.flag


@arguments()
def orbit_inner(k):
    one = k.batch, k.channels(), *k.shape(4, 4)
    for u, v in ((one, (k.order, *one)), ((k.order, *one), one), (one, one)):
        yield k.images(*u), k.images(*v), *k.action


@arguments()
def angle_inner(k):
    shape = k.batch, k.channels(), *k.shape(5, 6)
    three = (k.images(*shape) for _ in range(3))
    yield *three, ids(k.group, k.batch), k.table, k.group.n, k.padding_mode


def _crop(k: Choices) -> tuple[tuple[int, int], list[int], list[int]]:
    """The size of images, a crop of them, and what it is resized to."""
    h, w = k.shape(7, 6)
    top, left = k.size(min(1, h - 1), 0, h - 1), k.size(0, 0, w - 1)
    crop = [top, left, k.size(min(5, h - top), 1, h - top), k.size(min(4, w - left), 1, w - left)]
    return (h, w), crop, [k.size(3, 1, 20), k.size(8, 1, 20)]


@arguments()
def crop_resize(k):
    shape, crop, size = _crop(k)
    yield k.images(k.batch, k.channels(), *shape), crop, size


@arguments()
def crop_resize_backward(k):
    shape, crop, size = _crop(k)
    yield k.images(k.batch, k.channels(), *size), list(shape), crop


class Layer(NamedTuple):
    """A convolution that fits its images."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    out: tuple[int, ...]  # of one element
    options: tuple[list[int], list[int], list[int]]  # stride, padding, dilation


def _layer(k: Choices, channels: int, height: int, width: int, dilation: tuple[int, int] = (1, 2)) -> Layer:
    stride, padding = [k.size(2, 1, 3), k.size(1, 1, 3)], [k.size(1, 0, 2), k.size(0, 0, 2)]
    apart = [k.size(dilation[0], 1, 2), k.size(dilation[1], 1, 2) if dilation[1] > 1 else 1]
    kernel = [k.size(3, 1, 4), k.size(2, 1, 4)]
    least = [d * (n - 1) + 1 - 2 * p for d, n, p in zip(apart, kernel, padding, strict=True)]
    size = [max(n, at_least) for n, at_least in zip((height, width), least, strict=True)]
    c_out = k.size(3, 1, 18)
    out = output_size(size, kernel, stride, padding, apart)
    options = (stride, padding, apart)
    return Layer((k.batch, channels, *size), (c_out, channels, *kernel), (k.batch, c_out, *out), options)


def _convolution(k: Choices, activation: str) -> tuple:
    layer = _layer(k, k.size(2, 1, 20), *k.shape(7, 8))
    bias = k.new(layer.weight[0]) if k.flag else None
    return k.images(*layer.x), k.new(*layer.weight), bias, k.table, *layer.options, k.padding_mode, activation


@arguments()
def orbit_conv2d(k):
    yield _convolution(k, "none")
    if not k.requires_grad:
        yield _convolution(k, k.one_of("relu", list(ACTIVATIONS)))


@arguments([torch.float32, torch.bfloat16], differentiable=False)  # the types that its kernel takes
def orbit_conv2d_direct(k):
    (h, w), channels, parts = k.shape(7, 8), k.size(2, 1, 16), []
    first = None
    for _ in range(k.size(1, 1, 3)):
        layer = _layer(k, channels, h, w)
        if first is not None and layer.x[2:] != (h, w):
            break  # the kernel doesn't fit what the layer before has left
        first = first or layer
        c = layer.weight[0]
        norm = [k.new(c), k.new(c) ** 2, k.new(c), None] if k.flag else [None] * 4
        parts.append((k.new(*layer.weight), k.new(c) if k.flag else None, norm, layer.options))
        _, channels, h, w = layer.out
    weights, biases, norms, options = zip(*parts, strict=True)
    sizes = (sum(pairs, []) for pairs in zip(*options, strict=True))
    activations = [k.one_of("gelu", list(ACTIVATIONS)) for _ in weights]
    layers = list(weights), list(biases), sum(norms, []), [1e-3] * len(weights)
    yield k.images(*first.x), *layers, k.table, *sizes, k.padding_mode, activations, k.flag


@arguments([torch.float32], differentiable=False)
def orbit_conv2d_direct_backward(k):
    layer = _layer(k, k.size(2, 1, 4), *k.shape(7, 8), dilation=(2, 1))
    batch, *out = layer.out
    like = LAYOUTS["channels_last" if k.flag else "contiguous"]
    grad = like(k.new(k.order * batch, *out))
    yield grad, k.images(*layer.x), list(layer.weight[2:]), k.table, *layer.options, k.padding_mode, k.flag


@arguments(differentiable=False)
def orbit_conv2d_backward(k):
    layer = _layer(k, k.size(2, 1, 20), *k.shape(7, 8))
    batch, *out = layer.out
    x, weight, grad = k.images(*layer.x), k.new(*layer.weight), k.images(k.order * batch, *out)
    for needs in ([True, True, True], [k.flag, not k.flag, False]):
        yield grad, x, weight, k.table, *layer.options, k.padding_mode, needs


@arguments()
def orbit_conv2d_pool(k):
    yield _convolution(k, k.one_of("relu" if k.flag else "gelu", list(ACTIVATIONS)))


@arguments(differentiable=False)
def orbit_conv2d_pool_backward(k):
    x, weight, *options = _convolution(k, k.one_of("silu" if k.flag else "gelu", ["gelu", "silu", "none"]))
    rows = k.new(k.order * k.batch, weight.shape[0])
    for needs in ([True, True, k.flag], [k.flag, not k.flag, False]):
        yield rows, x, weight, *options, needs


def _vectors(k: Choices) -> tuple[Tensor, Tensor]:
    """Vectors and a reference."""
    d = k.size(5, 1, 40)
    return k.new(k.order * k.batch, d), k.new(d)


def _normalize(k: Choices) -> bool:
    return k.representation == "regular"


@arguments()
def orbit_scores(k):
    yield *_vectors(k), k.order, 1.5, k.flag


@arguments(differentiable=False)
def orbit_scores_backward(k):
    vectors, reference = _vectors(k)
    probabilities = k.new(k.batch, k.order).softmax(1)
    grads = k.new(k.batch, k.order), k.new(k.batch, k.order)
    for pair in (grads, (grads[0], None), (None, grads[1])):
        yield *pair, vectors, reference, probabilities, 1.5, k.flag


def _logits(k: Choices) -> Iterator[tuple]:
    """Logits, the class of each sample or None, and a score of them: between the flags, every score."""
    classes = k.size(7, 2, 40)
    for score in ("confidence", "margin") if k.flag else ("negative_entropy", "energy", "class"):
        index = k.new(k.batch).argsort() % classes if score == "class" else None
        yield k.new(k.order * k.batch, classes), index, score


@arguments()
def orbit_logit_scores(k):
    for logits, index, score in _logits(k):
        yield logits, index, k.order, score, 1.5


@arguments(differentiable=False)
def orbit_logit_scores_backward(k):
    grads = k.new(k.batch, k.order, dtype=k.wide), k.new(k.batch, k.order, dtype=k.wide)
    probabilities = k.new(k.batch, k.order, dtype=k.wide).softmax(1)
    pairs = (grads, (grads[0], None), (None, grads[1]))
    for i, (logits, index, score) in enumerate(_logits(k)):
        yield *pairs[i], logits, index, probabilities, score, 1.5


@arguments()
def contrastive_loss(k):
    yield _vectors(k)[0], k.order, _normalize(k)


@arguments(differentiable=False)
def contrastive_loss_backward(k):
    yield k.new(), _vectors(k)[0], k.new(k.batch, k.order, k.order, dtype=k.wide), _normalize(k)


@arguments()
def orbit_losses(k):
    target = ids(k.group, k.batch) if k.flag else None
    yield *_vectors(k), target, k.order, 1.5, 2.5, k.flag, _normalize(k)


@arguments(differentiable=False)
def orbit_losses_backward(k):
    vectors, reference = _vectors(k)
    target = ids(k.group, k.batch) if k.flag else None
    probabilities = k.new(k.batch, k.order).softmax(1)
    gram = k.new(k.batch, k.order, k.order, dtype=k.wide)
    saved = vectors, reference, target, k.new(k.batch, k.order), probabilities, gram
    grads, scalars = (k.new(k.batch, k.order), k.new(k.batch, k.order)), (k.new(), k.new())
    for pairs in ((*grads, *scalars), (None, None, *scalars), (*grads, None, None)):
        yield *pairs, *saved, 1.5, 2.5, k.flag, _normalize(k)


def _normalizations(k: Choices) -> Iterator[tuple]:
    shape = k.batch, k.size(3, 1, 20), *k.shape(5, 6)
    for activation, affine in (("gelu", True), ("silu", False), ("relu", True)):
        parameters = (k.new(shape[1]), k.new(shape[1])) if affine else (None, None)
        activation = k.one_of(activation, list(NORM_ACTIVATIONS))
        yield shape, parameters, (0.1, activation, k.layout == "channels_last")


@arguments()
def batch_norm_act(k):
    for shape, parameters, options in _normalizations(k):
        yield k.images(*shape), *parameters, *options


@arguments(differentiable=False)
def batch_norm_act_backward(k):
    for shape, parameters, options in _normalizations(k):
        c = shape[1]
        statistics = k.new(c, dtype=k.wide), k.new(c, dtype=k.wide).abs()
        yield k.images(*shape), k.images(*shape), *parameters, *statistics, *options


@arguments()
def orbit_linear_scores(k):
    features, d = k.size(6, 1, 40), k.size(5, 1, 20)
    bias = k.new(d) if k.flag else None
    yield k.new(k.order * k.batch, features), k.new(d, features), bias, k.new(d), k.order, 1.5, k.flag
