"""Every op in plain eager PyTorch: the definition, the oracle of the tests, and the fallback where no kernel can run.

All functions differentiate through PyTorch's own autograd. Shapes: B batch, C channels, E = ``group.order``, d vector
size; orbits are element-major, row ``e·B + b``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .groups import ROW, Group, Matrix, as_group, multiply, quarter_turn
from .representations import channel_action

IDENTITY: Matrix = (1.0, 0.0, 0.0, 1.0)

#: Sample offsets are rounded to this many steps a pixel: then 1 − fraction is exact in float32, sums of offsets are
#: exact in float64, and interpolation commutes bit for bit with the exact elements.
STEPS = 2.0**24


class OrbitScores(NamedTuple):
    """What `orbit_scores` returns: activations (B, E), probabilities (B, E), element (B,) int64."""

    activations: Tensor
    probabilities: Tensor
    element: Tensor


class OrbitLosses(NamedTuple):
    """What `orbit_losses` returns: those of `OrbitScores`, and two scalars."""

    activations: Tensor
    probabilities: Tensor
    element: Tensor
    prior: Tensor
    contrastive: Tensor


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower: no kernel sums in half precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rows(table: Sequence[float]) -> list[tuple[int, Matrix]]:
    """A flat action table as ``(code, base)`` pairs."""
    parts = (table[i : i + ROW] for i in range(0, len(table), ROW))
    return [(int(code), (b00, b01, b10, b11)) for code, b00, b01, b10, b11 in parts]


def factor(code: int, base: Matrix, *, square: bool) -> tuple[int, Matrix]:
    """The same action with a permutation that maps the pixel grid onto itself: off squares, half turns and flips."""
    if square or code % 2 == 0:
        return code, base
    return code - 1, multiply(base, quarter_turn(1))


def sample(x: Tensor, row: tuple[int, Matrix], padding_mode: str = "border") -> Tensor:
    """Read ``x (…, H, W)`` at ``B·Q·p`` for every output position p: interpolate by B, then permute by Q."""
    code, base = factor(*row, square=x.shape[-1] == x.shape[-2])
    if base != IDENTITY:
        x = _interpolate(x, base, padding_mode)
    x = torch.rot90(x, -(code % 4), (-2, -1))
    return x.flip(-1) if code >= 4 else x


def sample_adjoint(y: Tensor, row: tuple[int, Matrix], padding_mode: str = "border") -> Tensor:
    """The transpose of `sample` as a linear map of ``(…, H, W)``."""
    code, base = factor(*row, square=y.shape[-1] == y.shape[-2])
    y = y.flip(-1) if code >= 4 else y
    y = torch.rot90(y, code % 4, (-2, -1))
    return y if base == IDENTITY else _interpolate_adjoint(y, base, padding_mode)


def orbit(x: Tensor, group: Group | str, *, padding_mode: str = "border") -> Tensor:
    """Every ``g_e⁻¹·x``: (B, C, H, W) → (E·B, C, H, W)."""
    table = as_group(group).action_table(inverse=True)
    return torch.cat([sample(x, row, padding_mode) for row in rows(table)])


def orbit_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: Group | str,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    padding_mode: str = "border",
) -> Tensor:
    """``F.conv2d(orbit(x), weight, bias)``: (B, C, H, W) → (E·B, C_out, H', W')."""
    return F.conv2d(orbit(x, group, padding_mode=padding_mode), weight, bias, stride, padding, dilation)


def orbit_conv2d_pool(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: Group | str,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    padding_mode: str = "border",
    activation: str = "relu",
) -> Tensor:
    """``activation(orbit_conv2d(x, weight, bias)).mean((2, 3))``: (B, C, H, W) → (E·B, C_out)."""
    y = orbit_conv2d(
        x, weight, bias, group=group, stride=stride, padding=padding, dilation=dilation, padding_mode=padding_mode
    )
    return (y if activation == "none" else getattr(F, activation)(y)).mean((2, 3))


def orbit_scores(
    vectors: Tensor,
    reference: Tensor,
    *,
    group: Group | str,
    beta: float = 1.0,
    similarity: str = "cosine",
) -> OrbitScores:
    """Similarity of each of E·B vectors (E·B, d) with the reference (d,), softmax over the group, arg max."""
    order = as_group(group).order
    wide = accumulate_dtype(vectors.dtype)
    v = vectors.to(wide).reshape(order, vectors.shape[0] // order, vectors.shape[1])
    r = reference.to(wide)
    cosine = similarity == "cosine"
    scores = similarities(v, r, cosine)
    if scores.requires_grad:
        # A gradient of 0 that meets ∞ or NaN becomes NaN. So the vectors behind scores that pass no gradient are
        # replaced before the scores are differentiated, and so is what is not finite in the reference.
        passing = scores.isfinite() & is_usable(scores.t().to(vectors.dtype)).t()
        finite = similarities(torch.where(passing[..., None], v, 1), torch.where(r.isfinite(), r, 1), cosine)
        scores = torch.where(passing, finite, scores.detach())
    return select(scores.t(), beta, vectors.dtype)


def orbit_linear_scores(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reference: Tensor,
    *,
    group: Group | str,
    beta: float = 1.0,
    similarity: str = "cosine",
) -> OrbitScores:
    """`orbit_scores` of ``F.linear(features, weight, bias)``: features (E·B, f), weight (d, f), the others (d,)."""
    vectors = F.linear(features, weight, bias)
    return orbit_scores(vectors, reference, group=group, beta=beta, similarity=similarity)


def orbit_losses(
    vectors: Tensor,
    reference: Tensor,
    *,
    group: Group | str,
    target: Tensor | None = None,
    beta: float = 1.0,
    prior_beta: float | None = None,
    similarity: str = "cosine",
    normalize: bool = False,
) -> OrbitLosses:
    """`orbit_scores`, mean cross-entropy of ``prior_beta·activations`` with ``target`` (B,), and `contrastive_loss`."""
    scores = orbit_scores(vectors, reference, group=group, beta=beta, similarity=similarity)
    activations = scores.activations.to(accumulate_dtype(vectors.dtype))
    if target is None:
        target = torch.zeros_like(scores.element)
    prior = F.cross_entropy(logits(activations, 1.0 if prior_beta is None else prior_beta), target).to(vectors.dtype)
    return OrbitLosses(*scores, prior, contrastive_loss(vectors, group=group, normalize=normalize))


def similarities(vectors: Tensor, reference: Tensor, cosine: bool) -> Tensor:
    """The cosine or the inner product of each vector with the reference: (…, d) and (d,) → (…,)."""
    return F.cosine_similarity(vectors, reference, dim=-1) if cosine else vectors @ reference


def logits(scores: Tensor, beta: float) -> Tensor:
    """``beta·scores``, in which a score of −inf stays −inf whatever ``beta`` is, and gets no gradient."""
    return torch.where(scores == -torch.inf, -torch.inf, scores * beta)


def is_usable(activations: Tensor) -> Tensor:
    """Whether each sample can choose by its activations (B, E): none is NaN or +inf, and one is finite; (B, 1) bool."""
    return (activations < torch.inf).all(1, keepdim=True) & (activations > -torch.inf).any(1, keepdim=True)


def select(scores: Tensor, beta: float = 1.0, dtype: torch.dtype | None = None) -> OrbitScores:
    """Softmax of ``beta·scores`` over the group and the lowest id of the maximum; scores (B, E).

    A score of −inf masks its element: that has probability 0 for every ``beta`` and is never chosen. A sample with NaN
    or +inf among its activations, or with −inf alone, falls back: it gets the identity and NaN probabilities. No
    gradient passes through a score that is not finite, nor through any score of a sample that fell back.
    """
    activations = scores.to(dtype or scores.dtype)
    usable = is_usable(activations)
    if scores.requires_grad:
        scores = torch.where(usable & scores.isfinite(), scores, scores.detach())
        activations = scores.to(activations.dtype)
    probabilities = torch.where(usable, logits(scores, beta), torch.nan).softmax(1)
    ids = torch.arange(scores.shape[1], device=scores.device)
    best = scores.amax(1, keepdim=True)
    element = torch.where(usable & (scores == best), ids, scores.shape[1]).amin(1)
    element = torch.where(usable.squeeze(1), element, 0)
    return OrbitScores(activations, probabilities.to(activations.dtype), element)


def choice_weights(probabilities: Tensor, element: Tensor) -> Tensor:
    """The probabilities (B, E), or one-hot at the chosen ``element`` (B,) for a sample whose probabilities are NaN."""
    ids = torch.arange(probabilities.shape[1], device=probabilities.device)
    one_hot = (ids == element[:, None]).to(probabilities.dtype)
    return torch.where(probabilities.isnan(), one_hot, probabilities)


def act(
    x: Tensor,
    element: Tensor,
    *,
    group: Group | str,
    inverse: bool = False,
    representation: str = "trivial",
    padding_mode: str = "border",
) -> Tensor:
    """Per-sample ``g·x``, or ``g⁻¹·x`` if ``inverse``, for ids ``element`` (B,): (B, C, H, W) → the same."""
    group = as_group(group)
    table = rows(group.action_table(inverse=inverse))
    channels = channel_action(group, representation, inverse=inverse)
    out = x
    for e in element.unique().tolist():
        mine = (element == e).nonzero().squeeze(1)
        moved = transform_channels(sample(x[mine], table[e], padding_mode), *channels, e)
        out = out.index_put((mine,), moved)
    return out.clone() if out is x else out


def orbit_average(
    y: Tensor,
    weights: Tensor,
    *,
    group: Group | str,
    representation: str = "trivial",
    padding_mode: str = "border",
) -> Tensor:
    """``Σ_e weights[:, e] · g_e·y_e``: (E·B, C, H, W) and (B, E) → (B, C, H, W)."""
    group = as_group(group)
    wide = accumulate_dtype(y.dtype)
    members = y.to(wide).reshape(group.order, y.shape[0] // group.order, *y.shape[1:])
    channels = channel_action(group, representation, inverse=False)
    total = torch.zeros_like(members[0])
    for e, row in enumerate(rows(group.action_table(inverse=False))):
        moved = transform_channels(sample(members[e], row, padding_mode), *channels, e)
        total = total + weights[:, e, None, None, None].to(wide) * moved
    return total.to(y.dtype)


def contrastive_loss(vectors: Tensor, *, group: Group | str, normalize: bool = False) -> Tensor:
    """Mean over (B, E, E) of ``|⟨v_e, v_h⟩|·[e ≠ h]``; vectors (E·B, d).

    A product that is not finite passes no gradient.
    """
    order = as_group(group).order
    wide = accumulate_dtype(vectors.dtype)
    v = vectors.to(wide).reshape(order, vectors.shape[0] // order, vectors.shape[1]).transpose(0, 1)

    def products(v: Tensor) -> Tensor:
        v = F.normalize(v, dim=-1) if normalize else v
        return v @ v.transpose(1, 2)

    gram = products(v)
    if gram.requires_grad:
        # As in `orbit_scores`: 0·∞ is NaN.
        gram = torch.where(gram.isfinite(), products(torch.where(v.isfinite(), v, 0)), gram.detach())
    itself = torch.eye(order, dtype=torch.bool, device=v.device)
    return gram.masked_fill(itself, 0).abs().mean().to(vectors.dtype)


def transform_channels(x: Tensor, permutation: Sequence[int], mixing: Sequence[float], element: int) -> Tensor:
    """ρ of one element, as `representations.channel_action` gives it, on dimension −3 of ``x (…, C, H, W)``."""
    if permutation:
        size = round(len(permutation) ** 0.5)
        source = torch.tensor(permutation[element * size : (element + 1) * size], device=x.device)
        return x.unflatten(-3, (-1, size)).index_select(-3, source).flatten(-4, -3)
    if mixing:
        a, b, c, d = mixing[4 * element : 4 * element + 4]
        u, v = x[..., 0::2, :, :], x[..., 1::2, :, :]
        wide = accumulate_dtype(x.dtype)
        u, v = u.to(wide), v.to(wide)
        return torch.stack((a * u + b * v, c * u + d * v), -3).flatten(-4, -3).to(x.dtype)
    return x


def _axis(position: Tensor, size: int, padding_mode: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Neighbours and weights along one axis: ``(index, next index, weight, next weight)``."""
    if padding_mode == "border":
        position = position.clamp(0, size - 1)
    first = position.floor().clamp(0, max(size - 2, 0))
    near = (1 - (position - first).abs()).clamp(min=0)
    far = (1 - (position - first - 1).abs()).clamp(min=0) * (size > 1)
    return first.long(), (first.long() + 1).clamp(max=size - 1), near, far


def _footprint(
    base: Matrix, height: int, width: int, padding_mode: str, like: Tensor
) -> tuple[tuple[Tensor, Tensor], ...]:
    """The four flat source indices of every output pixel, each with its weight, (H·W,)."""
    dx = torch.arange(width, dtype=torch.float64, device=like.device) - (width - 1) / 2
    dy = torch.arange(height, dtype=torch.float64, device=like.device)[:, None] - (height - 1) / 2
    grid = [(m * d * STEPS).round() / STEPS for m, d in zip(base, (dx, dy, dx, dy), strict=True)]
    x0, x1, ax, bx = _axis((width - 1) / 2 + (grid[0] + grid[1]), width, padding_mode)
    y0, y1, ay, by = _axis((height - 1) / 2 + (grid[2] + grid[3]), height, padding_mode)
    ax, bx, ay, by = (w.to(accumulate_dtype(like.dtype)) for w in (ax, bx, ay, by))
    corners = ((y0, x0, ay * ax), (y1, x1, by * bx), (y0, x1, ay * bx), (y1, x0, by * ax))
    return tuple(((y * width + x).flatten(), w.flatten()) for y, x, w in corners)


def _interpolate(x: Tensor, base: Matrix, padding_mode: str) -> Tensor:
    height, width = x.shape[-2:]
    flat = x.to(accumulate_dtype(x.dtype)).flatten(-2)
    terms = [flat[..., i] * w for i, w in _footprint(base, height, width, padding_mode, x)]
    # Opposite corners first: a quarter turn or a flip swaps the two sums, and addition commutes exactly.
    value = (terms[0] + terms[1]) + (terms[2] + terms[3])
    return value.to(x.dtype).unflatten(-1, (height, width))


def _interpolate_adjoint(y: Tensor, base: Matrix, padding_mode: str) -> Tensor:
    height, width = y.shape[-2:]
    flat = y.to(accumulate_dtype(y.dtype)).flatten(-2)
    total = torch.zeros_like(flat)
    for index, weight in _footprint(base, height, width, padding_mode, y):
        total = total.index_add(-1, index, flat * weight)
    return total.to(y.dtype).unflatten(-1, (height, width))
