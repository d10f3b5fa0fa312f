"""`angle_inner`: how the loss changes by the angle and by the reflection flag of each image.

``angle_inner(x, image, grad, element, table, turns, padding_mode)`` is (B, 2) in the accumulate dtype. With ``grad``
the gradient at the canonical ``image`` of x, flipped back where ``element`` is a reflection, it is
``⟨grad, d/dθ R(−θ)x⟩`` at the angle of the element, and ``⟨grad, F·image − image⟩``. ``table`` is
``Group.action_table(inverse=True)``, and ``turns`` says how many of its first rows are rotations.

The backward pass of the estimator `angle` is made of these sums. They can be differentiated again, by their definition
in eager PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dtypes import accumulate_dtype
from ..geometry import STEPS, Matrix, multiply, quarter_turn, rows
from .registry import register

#: Bytes of images that the definition takes at a time on a CPU. It has about fifteen temporaries of their size.
CHUNK_BYTES = 1 << 20


def _eager(x, image, grad, element, table, turns, padding_mode):
    x, image, grad = (t.to(accumulate_dtype(t.dtype)) for t in (x, image, grad))
    grad = torch.where((element >= turns)[:, None, None, None], grad.flip(-1), grad)
    # The image is the branch that was taken, reflected or not; F·image is the other branch.
    by_flag = (grad * (image.flip(-1) - image)).sum((1, 2, 3))
    matrices = rotation_matrices(table, turns)
    image_bytes = max(x[:1].numel() * x.element_size(), 1)
    images = x.shape[0] if torch.compiler.is_compiling() or x.is_cuda else CHUNK_BYTES // image_bytes
    parts = (t.split(max(images, 1)) for t in (grad, x, element % turns))
    by_angle = [
        (g * rotation_derivative(part, turn, matrices, padding_mode)).sum((1, 2, 3))
        for g, part, turn in zip(*parts, strict=True)
    ]
    return torch.stack((torch.cat(by_angle), by_flag), 1)


def rotation_matrices(table: Sequence[float], turns: int) -> list[Matrix]:
    """The matrices of the first ``turns`` rows of an action table, which are rotations."""
    return [multiply(base, quarter_turn(code)) for code, base in rows(table)[:turns]]


def rotation_derivative(x: Tensor, turns: Tensor, matrices: list[Matrix], padding_mode: str) -> Tensor:
    """``d/dθ R(−θ)x`` at the rotation ``matrices[turns]`` of each sample: (B, C, H, W), ids (B,) → (B, C, H, W).

    Positions are rounded to multiples of 2⁻²⁴ pixel, as for resampling.
    """
    height, width = x.shape[-2:]
    m = torch.tensor(matrices, dtype=torch.float64, device=x.device)[turns][:, :, None, None]
    dx = torch.arange(width, dtype=torch.float64, device=x.device) - (width - 1) / 2
    dy = torch.arange(height, dtype=torch.float64, device=x.device)[:, None] - (height - 1) / 2
    xx, xy, yx, yy = ((m[:, i] * d * STEPS).round() / STEPS for i, d in enumerate((dx, dy, dx, dy)))
    # R(−θ)x reads x at (u, v) = g·(dx, dy) about the centre; so du/dθ = v and dv/dθ = −u.
    u, v = xx + xy, yx + yy
    column, row = u + (width - 1) / 2, v + (height - 1) / 2
    # Beyond a margin of two pixels nothing changes with the position, so positions there are moved to its edge.
    mode = "replicate" if padding_mode == "border" else "constant"
    flat, stride = F.pad(x, (2, 2, 2, 2), mode=mode).flatten(2), width + 4
    u, v = u[:, None].to(x.dtype), v[:, None].to(x.dtype)
    total = torch.zeros_like(x)
    # The slopes to the right and below, then those to the left and above. They differ where a position is on a pixel.
    for first in (torch.floor, lambda position: position.ceil() - 1):
        i, j = first(column).clamp(-2, width), first(row).clamp(-2, height)
        index = ((j + 2) * stride + (i + 2)).long().flatten(1)[:, None].expand(-1, x.shape[1], -1)
        last = stride + 1
        a, b, c, d = (
            flat[..., k : flat.shape[2] - last + k].gather(2, index).view(x.shape) for k in (0, 1, stride, last)
        )
        top, left = b - a, c - a
        along_x = top + (row - j)[:, None].to(x.dtype) * (d - c - top)
        along_y = left + (column - i)[:, None].to(x.dtype) * (d - b - left)
        total = total + along_x * v - along_y * u
    return total / 2


def _fake(x, image, grad, element, table, turns, padding_mode):
    return x.new_empty((x.shape[0], 2), dtype=accumulate_dtype(x.dtype))


def _setup_context(ctx, inputs, output):
    x, image, grad, element, ctx.table, ctx.turns, ctx.padding_mode = inputs
    ctx.save_for_backward(x, image, grad, element)


def _backward(ctx, grad_sums):
    """Differentiates the definition. No kernel has a backward pass of its own: only double backward needs one."""
    *saved, element = ctx.saved_tensors
    needed = ctx.needs_input_grad[:3]
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # One tensor may depend on another. A view of each keeps the derivatives by them apart.
        views = [t.view_as(t) if wanted else t.detach() for t, wanted in zip(saved, needed, strict=True)]
        x, image, grad = views
        sums = _eager(x, image, grad, element, ctx.table, ctx.turns, ctx.padding_mode)
        leaves = [t for t, wanted in zip(views, needed, strict=True) if wanted]
        found = iter(torch.autograd.grad(sums, leaves, grad_sums, create_graph=differentiable))
    return *(next(found) if wanted else None for wanted in needed), None, None, None, None


register("angle_inner", eager=_eager, fake=_fake, setup_context=_setup_context, backward=_backward)
