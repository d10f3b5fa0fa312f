"""How the choice of a group element passes gradients: the estimators `canonicalize` offers by name.

Each is a function ``(x, scores, group, beta, padding_mode) -> (image, element)``: the images x (B, C, H, W) and their
`OrbitScores` give the canonical images, like x, and the chosen ids (B,) int64. The hard ones return exactly
``g_e⁻¹·x``; they differ in what their backward pass pretends to have computed (paper 2405.14089, section 3).

A sample whose probabilities are NaN has fallen back to the identity. With every estimator its weights are then one-hot:
its image is x itself, the gradient of x is that of the identity, and its probabilities get no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import checks, ops
from .choice import OrbitScores, choice_weights, logits
from .dtypes import accumulate_dtype
from .groups import Group, as_group
from .ops.angle_inner import rotation_derivative, rotation_matrices
from .transform_set import Transforms

Estimator = Callable[[Tensor, OrbitScores, Transforms, float, str], tuple[Tensor, Tensor]]
Table = tuple[float, ...]


def none(x: Tensor, scores: OrbitScores, group: Transforms, beta: float, padding_mode: str) -> tuple[Tensor, Tensor]:
    """``act(x, element, inverse=True)``; the choice gets no gradient, x the exact one."""
    table = group.action_table(inverse=True)
    return torch.ops.equifast.act(x, scores.element, table, [], [], padding_mode, False), scores.element


def straight_through(
    x: Tensor, scores: OrbitScores, group: Transforms, beta: float, padding_mode: str
) -> tuple[Tensor, Tensor]:
    """The arg max image forward; backward that of `soft`: ``∂L/∂p_e = ⟨∂L/∂y, g_e⁻¹x⟩`` for all e in one pass."""
    table = group.action_table(inverse=True)
    function = _StraightThrough if torch.compiler.is_compiling() else _StraightThroughWithTangents
    return function.apply(x, scores.probabilities, scores.element, table, padding_mode), scores.element


def soft(x: Tensor, scores: OrbitScores, group: Transforms, beta: float, padding_mode: str) -> tuple[Tensor, Tensor]:
    """The expectation itself, ``Σ_e p_e·g_e⁻¹x``: a blend of images, and its own gradient.

    A member with weight 0 is summed too, so a NaN in x is NaN in every place that a member moves it to.
    """
    weights = choice_weights(scores.probabilities, scores.element).to(accumulate_dtype(x.dtype))
    table = group.action_table(inverse=True)
    image = torch.ops.equifast.orbit_average(x, weights, table, [], [], padding_mode, False)
    return image, scores.element


def gumbel(x: Tensor, scores: OrbitScores, group: Transforms, beta: float, padding_mode: str) -> tuple[Tensor, Tensor]:
    """A sample of ``softmax(beta·activations)`` instead of its arg max (Gumbel noise added before it), straight-through
    by the softmax of the noisy scores. Draws from the global generator of x's device.
    """
    return straight_through(x, with_noise(scores, beta), group, 1.0, padding_mode)


def with_noise(scores: OrbitScores, beta: float) -> OrbitScores:
    """The choice after Gumbel noise was added to ``beta·activations``."""
    activations = scores.activations.to(accumulate_dtype(scores.activations.dtype))
    noise = -torch.empty_like(activations).exponential_().log()
    return ops.select(logits(activations, beta) + noise, 1.0)


def angle(x: Tensor, scores: OrbitScores, group: Transforms, beta: float, padding_mode: str) -> tuple[Tensor, Tensor]:
    """The arg max image forward; backward as equiadapt's: through one angle and one reflection flag a sample.

    The choice is read as ``θ = Σ_e p_e·θ_e`` (a plain number, not a point of the circle) and ``r = Σ_e p_e·r_e``, the
    image as ``(1 − r)·R(−θ)x + r·F R(−θ)x``. So ``∂L/∂p_e = (∂L/∂θ)·θ_e + (∂L/∂r)·r_e`` with the analytic derivative
    of the bilinear resampling by its angle. Where a sample falls on a pixel, that is the mean of the slopes on either
    side; where the border clamps, it is zero. The backward pass is one kernel. This estimator is here for comparison
    with published results: `straight_through` knows that 0° and 315° are neighbours. It needs a group.
    """
    group = as_group(group)
    table = group.action_table(inverse=True)
    function = _Angle if torch.compiler.is_compiling() else _AngleWithTangents
    return function.apply(x, scores.probabilities, scores.element, table, padding_mode, group), scores.element


#: Every estimator by the name `canonicalize` takes.
ESTIMATORS: dict[str, Estimator] = {
    "straight_through": straight_through,
    "soft": soft,
    "gumbel": gumbel,
    "angle": angle,
    "none": none,
}

#: The estimators that choose the arg max, which a gate may replace by the identity.
GATED = ("straight_through", "angle", "none")

#: The estimators whose gradient is not that of the ops that they call. `torch.export` keeps the ops alone, and so drops
#: the gradient.
SURROGATES = ("straight_through", "gumbel", "angle")


def check_gate(gate: float | None, estimator: str) -> None:
    """Raise an error unless ``gate`` is None, or a number of at least 0 and the estimator takes one."""
    if gate is None:
        return
    checks.number("gate", gate)
    if not gate >= 0:
        raise ValueError(f"gate: expected at least 0, got {gate!r}")
    if estimator not in GATED:
        raise ValueError(f"gate: expected None with estimator {estimator!r}; {', '.join(GATED)} take one")


def asks_for(ctx, index: int) -> bool:
    """Whether a backward pass has to return the gradient of this input.

    Within `torch.func.grad`, torch.compile tells a function that some inputs need no gradient although they do. So
    compiled code computes all gradients, and the compiler drops those that nobody uses.
    """
    return ctx.needs_input_grad[index] or torch.compiler.is_compiling()


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, probabilities: Tensor, element: Tensor, table: Table, padding_mode: str) -> Tensor:
        return torch.ops.equifast.act(x, element, table, [], [], padding_mode, False)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.table, ctx.padding_mode = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, probabilities, element = ctx.saved_tensors
        action: tuple[Table, list[int], list[float], str] = (ctx.table, [], [], ctx.padding_mode)
        dx = dp = None
        if asks_for(ctx, 0):
            weights = choice_weights(probabilities, element).to(accumulate_dtype(grad.dtype))
            dx = torch.ops.equifast.orbit_average(grad, weights, *action, True)
        if asks_for(ctx, 1):
            dp = torch.ops.equifast.orbit_inner(x, grad, *action).to(probabilities.dtype)
            dp = dp.masked_fill(probabilities.isnan(), 0)
        return dx, dp, None, None, None


class _StraightThroughWithTangents(_StraightThrough):
    """The same, with a derivative in forward mode. torch.compile takes no function that has one."""

    @staticmethod
    def jvp(ctx, dx: Tensor | None, dp: Tensor | None, *_: None) -> Tensor:
        x, probabilities, element = ctx.saved_tensors
        action: tuple[Table, list[int], list[float], str, bool] = (ctx.table, [], [], ctx.padding_mode, False)
        wide, tangent = accumulate_dtype(x.dtype), torch.zeros_like(x)
        if dx is not None:
            weights = choice_weights(probabilities, element).to(wide)
            tangent = tangent + torch.ops.equifast.orbit_average(dx, weights, *action)
        if dp is not None:
            weights = dp.masked_fill(probabilities.isnan(), 0).to(wide)
            tangent = tangent + torch.ops.equifast.orbit_average(x, weights, *action)
        return tangent


class _Angle(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, probabilities: Tensor, element: Tensor, table: Table, padding_mode: str, group: Group
    ) -> Tensor:
        return torch.ops.equifast.act(x, element, table, [], [], padding_mode, False)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.table, ctx.padding_mode, ctx.group = inputs
        ctx.save_for_backward(*tensors, output)
        ctx.save_for_forward(*tensors, output)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, probabilities, element, image = ctx.saved_tensors
        dx = dp = None
        if asks_for(ctx, 0):
            dx = torch.ops.equifast.act(grad, element, ctx.table, [], [], ctx.padding_mode, True)
        if asks_for(ctx, 1):
            dp = angle_gradient(x, image, grad, element, ctx.group, ctx.padding_mode).to(probabilities.dtype)
            dp = dp.masked_fill(probabilities.isnan(), 0)
        return dx, dp, None, None, None, None


class _AngleWithTangents(_Angle):
    """The same, with a derivative in forward mode. torch.compile takes no function that has one."""

    @staticmethod
    def jvp(ctx, dx: Tensor | None, dp: Tensor | None, *_: None) -> Tensor:
        x, probabilities, element, image = ctx.saved_tensors
        n, wide = ctx.group.n, accumulate_dtype(x.dtype)
        tangent = torch.zeros_like(x)
        if dx is not None:
            tangent = tangent + torch.ops.equifast.act(dx, element, ctx.table, [], [], ctx.padding_mode, False)
        if dp is not None:
            angles, flags = _angles_and_flags(ctx.group, x.device, wide)
            dp = dp.masked_fill(probabilities.isnan(), 0).to(wide)
            by_angle = rotation_derivative(x.to(wide), element % n, rotation_matrices(ctx.table, n), ctx.padding_mode)
            by_angle = torch.where((element >= n)[:, None, None, None], by_angle.flip(-1), by_angle)
            by_flag = image.flip(-1) - image
            moved = (dp @ angles)[:, None, None, None] * by_angle + (dp @ flags)[:, None, None, None] * by_flag
            tangent = tangent + moved.to(x.dtype)
        return tangent


def _angles_and_flags(group: Group, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """θ_e in radians and r_e of every element, (E,) each."""
    ids = torch.arange(group.order, device=device)
    return (ids % group.n).to(dtype) * (2 * math.pi / group.n), (ids >= group.n).to(dtype)


def angle_gradient(x: Tensor, image: Tensor, grad: Tensor, element: Tensor, group: Group, padding_mode: str) -> Tensor:
    """``∂L/∂p`` (B, E) of `angle` at the chosen element, from x, its canonical image and the gradient there."""
    table = group.action_table(inverse=True)
    sums = torch.ops.equifast.angle_inner(x, image, grad, element, table, group.n, padding_mode)
    angles, flags = _angles_and_flags(group, x.device, sums.dtype)
    return sums[:, :1] * angles + sums[:, 1:] * flags
