"""The convolution of patches that don't overlap, as a ViT embeds them, on a CPU: a matrix product for each image.

oneDNN packs the weight for each chunk of the orbit and unpacks its gradient. It took 7 % longer forward, and 22 %
longer for the gradient (16×16 patches, 768 channels, one core).
"""

from __future__ import annotations

import torch
from torch import Tensor

#: With fewer patches to an image, starting a product for each takes longer than one convolution of all.
MIN_PATCHES = 16


def are_patches(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]) -> bool:
    """Whether the layer is such a convolution, and large enough. Sums are in the type of x, so it has to be wide."""
    kernel = list(weight.shape[2:])
    whole = list(stride) == kernel and not any(padding) and all(d == 1 for d in dilation)
    wide = x.dtype in (torch.float32, torch.float64)
    count = (x.shape[2] // kernel[0]) * (x.shape[3] // kernel[1])
    return whole and wide and x.device.type == "cpu" and count >= MIN_PATCHES


def patches_of(rows: Tensor, weight: Tensor) -> Tensor:
    """The patches of images (N, C, H, W), as rows of the product: (N, H'·W', C·kH·kW)."""
    kh, kw = weight.shape[2:]
    h, w = rows.shape[2] // kh, rows.shape[3] // kw
    cut = rows[:, :, : h * kh, : w * kw].unflatten(3, (w, kw)).unflatten(2, (h, kh))
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(rows.shape[0], h * w, weight[0].numel())


def convolve(rows: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write the convolution of the rows, (E·B, C, H, W), to ``out``, (E, B, C_out, H', W').

    Each of its elements is contiguous or channels_last.
    """
    patches, matrix = patches_of(rows, weight), weight.flatten(1)
    batches = [out.flatten(0, 1)] if out.is_contiguous() else out.unbind()
    for part, batch in zip(patches.split(batches[0].shape[0]), batches, strict=True):
        if batch.is_contiguous():
            product = batch.flatten(2)
            torch.bmm(matrix.expand(product.shape[0], *matrix.shape), part.mT, out=product)
        else:
            product = batch.permute(0, 2, 3, 1).flatten(0, 2)
            torch.mm(part.flatten(0, 1), matrix.t(), out=product)
    if bias is not None:
        out += bias[:, None, None]


def add_grad_weight(rows: Tensor, weight: Tensor, grads: Tensor, total: Tensor) -> None:
    """Add the gradient of the weight to ``total``, (C_out, C, kH, kW); grads: (E, B, C_out, H', W')."""
    matrix = total.flatten(1)
    patches = iter(patches_of(rows, weight))
    for element in grads:
        for grad in element:
            matrix.addmm_(grad.flatten(1), next(patches))
