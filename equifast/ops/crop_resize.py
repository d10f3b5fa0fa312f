"""`crop_resize`: a crop and an antialiased bilinear resize, in one op."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks, reference
from ..dtypes import accumulate_dtype
from . import _resample
from .registry import register


def crop_resize(x: Tensor, size: int | tuple[int, int], *, crop: tuple[int, int, int, int] | None = None) -> Tensor:
    """A rectangle of each image, resized: (B, C, H, W) → (B, C, h, w).

    Each output is an average of the pixels of the crop, weighted by their distance: the bilinear interpolation with
    antialiasing of PyTorch, torchvision and Pillow. Weights are rounded once, and sums run in float32 at least. A
    mirrored crop gives the mirrored output to the last bit.

    Equivalent to: ``F.interpolate(x[:, :, top : top + height, left : left + width], size, mode="bilinear",
    antialias=True)``. A pixel with weight 0 is not read, so a NaN reaches only the outputs that weigh it.

    Args:
        x: images, float64, float32, float16 or bfloat16, any strides; B may be 0.
        size: (h, w), or h = w.
        crop: (top, left, height, width) within the image; None takes all of it.

    Raises:
        ValueError, TypeError: naming the argument that is off.
    """
    checks.images("x", x)
    size = (size, size) if isinstance(size, int) else size
    checks.size("size", size)
    height, width = x.shape[2:]
    crop = (0, 0, height, width) if crop is None else crop
    _check_crop(crop, height, width)
    return torch.ops.equifast.crop_resize(x, crop, size)


def _check_crop(crop: object, height: int, width: int) -> None:
    expected = f"crop: expected (top, left, height, width) within {height}×{width}, got {crop!r}"
    if not isinstance(crop, (tuple, list)) or len(crop) != 4 or not all(isinstance(n, int) for n in crop):
        raise TypeError(expected)
    for begin, length, whole in ((crop[0], crop[2], height), (crop[1], crop[3], width)):
        if begin < 0 or length < 1 or begin + length > whole:
            raise ValueError(expected)


def _memory_format(x: Tensor) -> torch.memory_format:
    """The kernel for CPUs writes contiguous images. On other devices they keep the memory format."""
    return torch.contiguous_format if x.device.type == "cpu" else _resample.memory_format(x)


def _new_images(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_memory_format(x))


def _eager(x, crop, size):
    out = reference.crop_resize(x, tuple(size), crop=tuple(crop))
    return out.contiguous(memory_format=_memory_format(x))


def _fake(x, crop, size):
    return _new_images(x, (*x.shape[:2], *size))


def _setup_context(ctx, inputs, output):
    x, ctx.crop, _ = inputs
    ctx.image_size = x.shape[2:]


def _backward(ctx, grad):
    return torch.ops.equifast.crop_resize_backward(grad, ctx.image_size, ctx.crop), None, None


register(
    "crop_resize",
    eager=_eager,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    has_gpu_kernel=False,
)


def _resize_backward(grad: Tensor, height: int, width: int) -> Tensor:
    shape = [*grad.shape[:2], height, width]
    return torch.ops.aten._upsample_bilinear2d_aa_backward(grad, grad.shape[2:], shape, False)


def _backward_eager(grad, image_size, crop):
    (height, width), (top, left, h, w) = image_size, crop
    wide = grad.to(accumulate_dtype(grad.dtype))
    # As in the reference: PyTorch's derivative of this is wrong for one column, but not for one row.
    cropped = _resize_backward(wide, h, w) if grad.shape[3] > 1 else _resize_backward(wide.mT, w, h).mT
    whole = F.pad(cropped.to(grad.dtype), (left, width - left - w, top, height - top - h))
    return whole.contiguous(memory_format=_memory_format(grad))


def _backward_fake(grad, image_size, crop):
    return _new_images(grad, (*grad.shape[:2], *image_size))


def _backward_setup_context(ctx, inputs, output):
    grad, _, ctx.crop = inputs
    ctx.size = grad.shape[2:]


def _backward_backward(ctx, grad):
    return torch.ops.equifast.crop_resize(grad, ctx.crop, ctx.size), None, None


register(
    "crop_resize_backward",
    eager=_backward_eager,
    fake=_backward_fake,
    setup_context=_backward_setup_context,
    backward=_backward_backward,
    has_gpu_kernel=False,
)
