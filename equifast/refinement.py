"""Search for the best rotation: the orbit of a coarse group, then rounds of half steps around the best of each image.

Rotations stay ids. C_n and k rounds end in C_{n·2^k}, and a D_n likewise; `finer` makes that group. Round i compares
the best rotation so far with its two neighbours in the i-th of these groups; a reflection is kept. So E + 2k members
are made and scored in place of E·2^k. If the scores of an image rise to one maximum along the circle and fall after it,
the search finds the same element as a comparison of all members of the finest group.

Shapes: B images, E elements of the coarse group, k rounds, K = E + 2k candidates of each image, N = E·2^k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import ops
from .averaging import weighted_sum
from .choice import OrbitScores, choice_weights, is_usable
from .dtypes import accumulate_dtype
from .estimators import ESTIMATORS, asks_for, with_noise
from .groups import CyclicGroup, DihedralGroup, Group
from .transform_set import Transforms

#: The finest group has at most this many rotations, which are 0.09° apart. Action tables and activations list them all.
MOST = 4096

#: The ids (B, K) of the candidates in the finest group, the coarse group, and the finest one.
Candidates = tuple[Tensor, Group, Group]


class Search(NamedTuple):
    """What `search` has found: the scores of the finest group (B, N), and who was compared."""

    scores: OrbitScores  # an element that was never evaluated has the activation −inf and the probability 0
    candidates: Tensor  # (B, K) ids of the finest group: those of the coarse group, then two for each round
    coarse: Group
    fine: Group


def check_refine(refine: int, group: Transforms) -> None:
    """Raise an error unless ``refine`` is a number of rounds that this group can be refined by."""
    if isinstance(refine, bool) or not isinstance(refine, int):
        raise TypeError(f"refine: expected an int, got {type(refine).__name__}")
    if refine == 0:
        return
    if not isinstance(group, Group):
        raise ValueError(f"refine: expected 0 with a {group}, since only the steps of a group can be halved")
    if group.n == 1:
        raise ValueError(f"refine: expected 0 with {group}, which has no rotations to start from")
    if refine < 0 or group.n << refine > MOST:
        raise ValueError(f"refine: expected 0 to {(MOST // group.n).bit_length() - 1} rounds for {group}, got {refine}")


def finer(group: Group, refine: int) -> Group:
    """The group with 2^refine times as many rotations."""
    return (DihedralGroup if group.reflections else CyclicGroup)(group.n * 2**refine)


def coarser(group: Transforms, refine: int) -> Transforms:
    """The group that `finer` has made this one of. Without rounds, any set is its own."""
    if refine == 0 or not isinstance(group, Group):
        return group
    return (DihedralGroup if group.reflections else CyclicGroup)(group.n // 2**refine)


def candidate_count(group: Transforms, refine: int) -> int:
    """The number of elements that are evaluated for each image, K."""
    return group.order + 2 * refine


def search(
    evaluate: Callable[[Tensor], Tensor],
    images: Tensor,
    scores: OrbitScores,
    *,
    group: Group,
    refine: int,
    beta: float,
    padding_mode: str,
) -> Search:
    """Refine the choice of a coarse orbit, ``refine`` times.

    A neighbour takes the place of the best so far only if its score is larger, and the one before it comes first among
    two that are equal: so a turn of the image turns the answer, but for the ids that break ties in the coarse orbit.

    Args:
        evaluate: rows (2·B, C, H, W), the members by both neighbours → their scores (B, 2).
        images: (B, C, H, W), of which members are made.
        scores: those of the coarse orbit.
    """
    fine = finer(group, refine)
    flip, turn = scores.element // group.n, scores.element % group.n
    best = scores.activations.detach().gather(1, scores.element[:, None]).squeeze(1)
    ids = torch.arange(group.order, device=flip.device)
    candidates = [_refined(ids % group.n, ids // group.n, refine, fine).expand(images.shape[0], -1)]
    activations = [scores.activations]
    for i in range(1, refine + 1):
        step = finer(group, i)
        neighbours = torch.stack([(2 * turn + d) % step.n for d in (-1, 1)])  # (2, B)
        of_rows = (neighbours + flip * step.n).flatten()
        table = step.action_table(inverse=True)
        found = evaluate(torch.ops.equifast.act(images, of_rows, table, [], [], padding_mode, False))
        candidates.append(_refined(neighbours, flip, refine - i, fine).t())
        activations.append(found)
        turn = 2 * turn
        for value, neighbour in zip(found.detach().unbind(1), neighbours, strict=True):
            is_better = value > best
            turn, best = torch.where(is_better, neighbour, turn), torch.where(is_better, value, best)
    every, of_every = torch.cat(candidates, 1), torch.cat(activations, 1)
    masked = of_every.new_full((images.shape[0], fine.order), -torch.inf)
    refined = ops.select(masked.scatter(1, every, of_every), beta)
    usable = is_usable(of_every.detach()).squeeze(1)
    element = torch.where(usable, flip * fine.n + turn, 0)
    return Search(refined._replace(element=element), every, group, fine)


def _refined(turn: Tensor, flip: Tensor, rounds: int, fine: Group) -> Tensor:
    """The ids in the finest group of rotations that it has ``rounds`` further halvings of."""
    return turn * 2**rounds + flip * fine.n


def estimate(name: str, x: Tensor, found: Search, beta: float, padding_mode: str) -> tuple[Tensor, Tensor]:
    """``ESTIMATORS[name](x, found.scores, found.fine, beta, padding_mode)``, but no member is made that has weight 0.

    So the gradient of the choice is over the candidates, K of N members.
    """
    if name == "soft":
        weights = choice_weights(found.scores.probabilities, found.scores.element)
        return _average(x, weights.gather(1, found.candidates), found[1:], padding_mode), found.scores.element
    if name in ("straight_through", "gumbel"):
        scores = found.scores if name == "straight_through" else with_noise(found.scores, beta)
        function = _StraightThrough if torch.compiler.is_compiling() else _StraightThroughWithTangents
        return function.apply(x, scores.probabilities, scores.element, *found[1:], padding_mode), scores.element
    return ESTIMATORS[name](x, found.scores, found.fine, beta, padding_mode)


def _members(y: Tensor, ids: Tensor, fine: Group, padding_mode: str, adjoint: bool = False) -> Tensor:
    """S_e y for the elements e = ``ids`` (B, 2) of each image, or the transposes: (2, B, C, H, W)."""
    table = fine.action_table(inverse=True)
    moved = torch.ops.equifast.act(y, ids.t().flatten(), table, [], [], padding_mode, adjoint)
    return moved.unflatten(0, (2, y.shape[0]))


def _average(y: Tensor, weights: Tensor, found: Candidates, padding_mode: str, adjoint: bool = False) -> Tensor:
    """``Σ_i weights[:, i] · S_e y`` over the candidates e = candidates[:, i], or of the transposes; like y."""
    candidates, coarse, fine = found
    wide = y.to(accumulate_dtype(y.dtype))
    weights = weights.to(wide.dtype)
    table, of_coarse = coarse.action_table(inverse=True), weights[:, : coarse.order]
    total = torch.ops.equifast.orbit_average(wide, of_coarse, table, [], [], padding_mode, adjoint)
    for i in range(coarse.order, candidates.shape[1], 2):
        members = _members(wide, candidates[:, i : i + 2], fine, padding_mode, adjoint)
        total = total + weighted_sum(members, weights[:, i : i + 2])
    return total.to(y.dtype)


def _inner(x: Tensor, y: Tensor, found: Candidates, padding_mode: str) -> Tensor:
    """``⟨S_e x, y⟩`` for the candidates e: (B, K) in the accumulate type."""
    candidates, coarse, fine = found
    products = [torch.ops.equifast.orbit_inner(x, y, coarse.action_table(inverse=True), [], [], padding_mode)]
    wide = accumulate_dtype(y.dtype)
    for i in range(coarse.order, candidates.shape[1], 2):
        members = _members(x, candidates[:, i : i + 2], fine, padding_mode).to(wide)
        products.append((members * y).sum((2, 3, 4)).t())
    return torch.cat(products, 1)


class _StraightThrough(torch.autograd.Function):
    """`estimators.straight_through` over the candidates."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        probabilities: Tensor,
        element: Tensor,
        candidates: Tensor,
        coarse: Group,
        fine: Group,
        padding_mode: str,
    ) -> Tensor:
        return torch.ops.equifast.act(x, element, fine.action_table(inverse=True), [], [], padding_mode, False)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.coarse, ctx.fine, ctx.padding_mode = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, probabilities, element, candidates = ctx.saved_tensors
        found = candidates, ctx.coarse, ctx.fine
        dx = dp = None
        if asks_for(ctx, 0):
            weights = choice_weights(probabilities, element).gather(1, candidates)
            dx = _average(grad, weights, found, ctx.padding_mode, adjoint=True)
        if asks_for(ctx, 1):
            products = _inner(x, grad, found, ctx.padding_mode).to(probabilities.dtype)
            dp = torch.zeros_like(probabilities).scatter(1, candidates, products)
            dp = dp.masked_fill(probabilities.isnan(), 0)
        return dx, dp, None, None, None, None, None


class _StraightThroughWithTangents(_StraightThrough):
    """The same, with a derivative in forward mode. torch.compile takes no function that has one."""

    @staticmethod
    def jvp(ctx, dx: Tensor | None, dp: Tensor | None, *_: None) -> Tensor:
        x, probabilities, element, candidates = ctx.saved_tensors
        found, tangent = (candidates, ctx.coarse, ctx.fine), torch.zeros_like(x)
        if dx is not None:
            weights = choice_weights(probabilities, element).gather(1, candidates)
            tangent = tangent + _average(dx, weights, found, ctx.padding_mode)
        if dp is not None:
            weights = dp.masked_fill(probabilities.isnan(), 0).gather(1, candidates)
            tangent = tangent + _average(x, weights, found, ctx.padding_mode)
        return tangent
