"""Layers for the tests of the convolutions of orbits, and what is expected of them in float64."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equifast import as_group, reference
from equifast.groups import Group

from .backend import NAME, by_backend
from .cases import DTYPES, rand

PLAIN = ((1, 1), (0, 0), (1, 1))

#: The shape of the images, that of the kernel, and stride, padding, dilation.
GEOMETRIES = {
    "1x1": ((5, 5), (1, 1), PLAIN),
    "1x1 image": ((1, 1), (1, 1), PLAIN),
    "3x3": ((6, 6), (3, 3), ((1, 1), (1, 1), (1, 1))),
    "7x7": ((13, 13), (7, 7), ((2, 2), (3, 3), (1, 1))),
    "strided": ((9, 9), (3, 3), ((2, 2), (1, 1), (1, 1))),
    "patches": ((8, 8), (4, 4), ((4, 4), (0, 0), (1, 1))),
    "ragged patches": ((9, 10), (4, 4), ((4, 4), (1, 0), (1, 1))),
    "dilated": ((9, 9), (3, 3), ((1, 1), (2, 2), (2, 2))),
    "uneven": ((7, 10), (3, 2), ((2, 1), (1, 0), (1, 2))),
    "even": ((6, 7), (2, 4), ((1, 2), (1, 2), (1, 1))),
    "far apart": ((7, 8), (2, 2), ((5, 3), (0, 1), (1, 1))),
    "apart": ((22, 13), (3, 2), ((9, 4), (1, 1), (2, 2))),
    "one row": ((1, 9), (1, 3), ((1, 2), (0, 1), (1, 1))),
    "wide padding": ((3, 3), (2, 2), ((1, 1), (4, 4), (1, 1))),
    "long": ((19, 35), (3, 3), ((1, 1), (1, 1), (1, 1))),
}

#: So large that a tile of a CUDA kernel has some rows of the convolution's kernel only, of which the last has fewer.
TALL = ((104, 256), (13, 16), ((13, 16), (0, 0), (1, 1)))

#: Images and patches that don't overlap: with a margin, none, and with a number in the middle of a patch.
PATCHES = [((17, 22), (4, 5)), ((16, 20), (4, 5)), ((12, 15), (3, 3))]

#: Dtypes, and float32 whose products may be rounded to TF32.
NUMBERS = [*DTYPES, "tf32"]

_small = [name for name in GEOMETRIES if name not in ("7x7", "dilated", "apart", "long")]
#: Which geometry with which number.
PAIRS = by_backend(
    [(geometry, number) for geometry in GEOMETRIES for number in NUMBERS],
    [(geometry, number) for geometry in GEOMETRIES for number in NUMBERS],
    interpreter=[(geometry, NUMBERS[i % 5]) for i, geometry in enumerate(_small)],
)

Layer = tuple[list[Tensor], tuple]


def layer(
    group: Group | str,
    geometry: str | tuple,
    *,
    channels: tuple[int, int] = (3, 5),
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    padding_mode: str = "border",
) -> Layer:
    """([gradient of the output, x, weight, bias], what the op takes after them)."""
    shape, kernel, options = GEOMETRIES[geometry] if isinstance(geometry, str) else geometry
    group = as_group(group)
    size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(shape, kernel, *options, strict=True)]
    c, c_out = channels
    sizes = (group.order * batch, c_out, *size), (batch, c, *shape), (c_out, c, *kernel), (c_out,)
    tensors = [rand(*each, dtype=dtype, seed=seed) for seed, each in enumerate(sizes)]
    return tensors, (list(group.action_table(inverse=True)), *map(list, options), padding_mode)


def activated(y: Tensor, activation: str) -> Tensor:
    return y if activation == "none" else getattr(F, activation)(y)


def output(group: Group | str, x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple, activation="none"):
    """The convolution in float64, of members that are rounded as they are in memory."""
    members = reference.orbit(x, group, padding_mode=options[4]).double()
    y = F.conv2d(members, weight.double(), None if bias is None else bias.double(), *options[1:4])
    return activated(y, activation)


def gradients(group: Group | str, tensors: list[Tensor], options: tuple) -> tuple[Tensor, Tensor, Tensor]:
    """Those of input, weight and bias in float64. A member's own gradient is never rounded, but the member is."""
    grad, x, weight, bias = (t.detach().double() for t in tensors)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    members = reference.orbit(x, group, padding_mode=options[4])
    of_input = F.conv2d(members, *leaves[1:], *options[1:4])
    of_parameters = output(group, tensors[1].detach(), *leaves[1:], options)
    return *torch.autograd.grad(of_input, leaves[:1], grad), *torch.autograd.grad(of_parameters, leaves[1:], grad)


@contextlib.contextmanager
def products_of(number: torch.dtype | str) -> Iterator[torch.dtype]:
    """The dtype of a number, while PyTorch lets convolutions round products to TF32 or not."""
    settings = torch.backends.cudnn.conv
    before = settings.fp32_precision
    settings.fp32_precision = "tf32" if number == "tf32" else "ieee"
    try:
        yield torch.float32 if number == "tf32" else number
    finally:
        settings.fp32_precision = before


def tolerance(number: torch.dtype | str) -> float:
    """A scale for `assert_near_overall`: 4e-3 for TF32, as far as a product of ten bits each may be off."""
    return 400.0 if number == "tf32" else 4.0


@pytest.fixture
def float32_in_float32():
    with products_of(torch.float32):
        yield


@pytest.fixture
def sampling_is_eager(monkeypatch):
    """Interpolation of base images and its adjoint have laws of their own, and take the interpreter seconds."""
    if NAME != "interpreter":
        return

    def base_images(x, bases, mode):
        images = torch.cat([reference.sample(x, (0, base), mode) for base in bases])
        return images.contiguous(memory_format=torch.channels_last) if x.stride(1) == 1 else images

    def adjoint(y, base, mode):
        return reference.sample_adjoint(y, (0, base), mode)

    host = importlib.import_module("equifast.kernels.orbit_conv2d_backward")
    monkeypatch.setattr(host, "base_images", base_images)
    monkeypatch.setattr(host, "_interpolation_adjoint", adjoint)
