"""How the choice of a group element passes gradients: the estimators `canonicalize` offers by name.

Each is a function ``(x, scores, group, beta, padding_mode) -> (image, element)``: the images x (B, C, H, W) and their
`OrbitScores` give the canonical images, like x, and the chosen ids (B,) int64. The hard ones return exactly
``g_e⁻¹·x``; they differ in what their backward pass pretends to have computed (paper 2405.14089, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .groups import Group
from .reference import OrbitScores, accumulate_dtype

Estimator = Callable[[Tensor, OrbitScores, Group, float, str], tuple[Tensor, Tensor]]
Table = tuple[float, ...]

#: Bytes of images at a time in the backward pass of `angle` on a CPU, which has some fifteen temporaries of their size.
CHUNK_BYTES = 1 << 20


def none(x: Tensor, scores: OrbitScores, group: Group, beta: float, padding_mode: str) -> tuple[Tensor, Tensor]:
    """``act(x, element, inverse=True)``; the choice gets no gradient, x the exact one."""
    table = group.action_table(inverse=True)
    return torch.ops.equifast.act(x, scores.element, table, [], [], padding_mode, False), scores.element


def straight_through(
    x: Tensor, scores: OrbitScores, group: Group, beta: float, padding_mode: str
) -> tuple[Tensor, Tensor]:
    """The arg max image forward; backward that of `soft`: ``∂L/∂p_e = ⟨∂L/∂y, g_e⁻¹x⟩`` for all e in one pass."""
    table = group.action_table(inverse=True)
    image = _StraightThrough.apply(x, scores.probabilities, scores.element, table, padding_mode)
    return image, scores.element


def soft(x: Tensor, scores: OrbitScores, group: Group, beta: float, padding_mode: str) -> tuple[Tensor, Tensor]:
    """The expectation itself, ``Σ_e p_e·g_e⁻¹x``: a blend of images, and its own gradient."""
    weights = scores.probabilities.to(accumulate_dtype(x.dtype))
    table = group.action_table(inverse=True)
    image = torch.ops.equifast.orbit_average(x, weights, table, [], [], padding_mode, False)
    return image, scores.element


def gumbel(x: Tensor, scores: OrbitScores, group: Group, beta: float, padding_mode: str) -> tuple[Tensor, Tensor]:
    """A sample of ``softmax(beta·activations)`` instead of its arg max (Gumbel noise added before it), straight-through
    by the softmax of the noisy scores. Draws from the global generator of x's device.
    """
    logits = scores.activations.to(accumulate_dtype(scores.activations.dtype)) * beta
    noise = -torch.empty_like(logits).exponential_().log()
    return straight_through(x, ops.select(logits + noise, 1.0), group, 1.0, padding_mode)


def angle(x: Tensor, scores: OrbitScores, group: Group, beta: float, padding_mode: str) -> tuple[Tensor, Tensor]:
    """The arg max image forward; backward as equiadapt's: through one angle and one reflection flag a sample.

    The choice is read as ``θ = Σ_e p_e·θ_e`` (a plain number, not a point of the circle) and ``r = Σ_e p_e·r_e``, the
    image as ``(1 − r)·R(−θ)x + r·F R(−θ)x``. So ``∂L/∂p_e = (∂L/∂θ)·θ_e + (∂L/∂r)·r_e`` with the analytic derivative
    of the bilinear warp by its angle: where a sample falls on a pixel, the mean of the slopes on either side; zero
    where the border clamps. Its backward pass is in eager PyTorch, and is here for comparison with published results:
    `straight_through` is faster, and knows that 0° and 315° are neighbours.
    """
    table = group.action_table(inverse=True)
    image = _Angle.apply(x, scores.probabilities, scores.element, table, padding_mode, group)
    return image, scores.element


#: Every estimator by the name `canonicalize` takes.
ESTIMATORS: dict[str, Estimator] = {
    "straight_through": straight_through,
    "soft": soft,
    "gumbel": gumbel,
    "angle": angle,
    "none": none,
}


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, probabilities: Tensor, element: Tensor, table: Table, padding_mode: str) -> Tensor:
        ctx.save_for_backward(x, probabilities)
        ctx.table, ctx.padding_mode = table, padding_mode
        return torch.ops.equifast.act(x, element, table, [], [], padding_mode, False)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, probabilities = ctx.saved_tensors
        action = (ctx.table, [], [], ctx.padding_mode)
        dx = dp = None
        if ctx.needs_input_grad[0]:
            weights = probabilities.to(accumulate_dtype(grad.dtype))
            dx = torch.ops.equifast.orbit_average(grad, weights, *action, True)
        if ctx.needs_input_grad[1]:
            dp = torch.ops.equifast.orbit_inner(x, grad, *action).to(probabilities.dtype)
        return dx, dp, None, None, None


class _Angle(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, probabilities: Tensor, element: Tensor, table: Table, padding_mode: str, group: Group
    ) -> Tensor:
        image = torch.ops.equifast.act(x, element, table, [], [], padding_mode, False)
        ctx.save_for_backward(x, element, image)
        ctx.table, ctx.padding_mode, ctx.group, ctx.dtype = table, padding_mode, group, probabilities.dtype
        return image

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, element, image = ctx.saved_tensors
        dx = dp = None
        if ctx.needs_input_grad[0]:
            dx = torch.ops.equifast.act(grad, element, ctx.table, [], [], ctx.padding_mode, True)
        if ctx.needs_input_grad[1]:
            dp = angle_gradient(x, image, grad, element, ctx.group, ctx.padding_mode).to(ctx.dtype)
        return dx, dp, None, None, None, None


def angle_gradient(x: Tensor, image: Tensor, grad: Tensor, element: Tensor, group: Group, padding_mode: str) -> Tensor:
    """``∂L/∂p`` (B, E) of `angle` at the chosen element, from x, its canonical image and the gradient there."""
    x, image, grad = (t.to(accumulate_dtype(t.dtype)) for t in (x, image, grad))
    turns = torch.arange(group.order, device=x.device) % group.n
    angles = turns.to(grad.dtype) * (2 * math.pi / group.n)
    reflected = torch.arange(group.order, device=x.device) >= group.n
    chosen = reflected[element]
    # With y the image, F·y is the other branch, whichever of the two was taken.
    sign = torch.where(chosen, -1.0, 1.0).to(grad.dtype)
    by_flag = sign * (grad * (image.flip(-1) - image)).sum((1, 2, 3))
    unflipped = torch.where(chosen[:, None, None, None], grad.flip(-1), grad)
    image_bytes = max(x[:1].numel() * x.element_size(), 1)
    images = x.shape[0] if torch.compiler.is_compiling() or x.is_cuda else CHUNK_BYTES // image_bytes
    parts = (t.split(max(images, 1)) for t in (unflipped, x, element % group.n))
    by_angle = torch.cat(
        [
            (g * rotation_derivative(part, j, group, padding_mode)).sum((1, 2, 3))
            for g, part, j in zip(*parts, strict=True)
        ]
    )
    return by_angle[:, None] * angles + by_flag[:, None] * reflected


def rotation_derivative(x: Tensor, turns: Tensor, group: Group, padding_mode: str) -> Tensor:
    """``d/dθ R(−θ)x`` at θ = 2π·turns/n for each sample: (B, C, H, W) and ids (B,) → (B, C, H, W)."""
    height, width = x.shape[-2:]
    matrices = [group.matrix(j) for j in range(group.n)]
    m = torch.tensor(matrices, dtype=x.dtype, device=x.device)[turns][:, :, None, None]
    dx = torch.arange(width, dtype=x.dtype, device=x.device) - (width - 1) / 2
    dy = torch.arange(height, dtype=x.dtype, device=x.device)[:, None] - (height - 1) / 2
    # R(−θ)x reads x at (u, v) = g·(dx, dy) about the centre; so du/dθ = v and dv/dθ = −u.
    u, v = m[:, 0] * dx + m[:, 1] * dy, m[:, 2] * dx + m[:, 3] * dy
    column, row = u + (width - 1) / 2, v + (height - 1) / 2
    # Beyond a margin of two pixels nothing changes with the position: footprints are moved to its edge.
    mode = "replicate" if padding_mode == "border" else "constant"
    flat, stride = F.pad(x, (2, 2, 2, 2), mode=mode).flatten(2), width + 4
    u, v = u[:, None], v[:, None]
    total = torch.zeros_like(x)
    # The slopes to the right and below, then those to the left and above: they differ where a sample is on a pixel.
    for first in (torch.floor, lambda position: position.ceil() - 1):
        i, j = first(column).clamp(-2, width), first(row).clamp(-2, height)
        index = ((j + 2) * stride + (i + 2)).long().flatten(1)[:, None].expand(-1, x.shape[1], -1)
        last = stride + 1
        a, b, c, d = (
            flat[..., k : flat.shape[2] - last + k].gather(2, index).view(x.shape) for k in (0, 1, stride, last)
        )
        top, left = b - a, c - a
        along_x = top + (row - j)[:, None] * (d - c - top)
        along_y = left + (column - i)[:, None] * (d - b - left)
        total = total + along_x * v - along_y * u
    return total / 2
