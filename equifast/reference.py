"""Every op in plain eager PyTorch: the definition, the oracle of the tests, and the fallback where no kernel can run.

All functions differentiate through PyTorch's own autograd. Shapes: B batch, C channels, E = ``group.order``, d vector
size; orbits are element-major, row ``e·B + b``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .choice import OrbitLosses, OrbitScores, is_usable, logits, select
from .disc import within_disc
from .dtypes import accumulate_dtype
from .frames import carrying_table, lifting_table
from .geometry import IDENTITY, STEPS, Matrix, factor, rows
from .groups import Group, as_group
from .representations import channel_action
from .scores import NAMED, of_class
from .transform_set import Transforms, as_transforms


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


def crop_resize(x: Tensor, size: int | tuple[int, int], *, crop: tuple[int, int, int, int] | None = None) -> Tensor:
    """The rows and columns of a crop (top, left, height, width), resized by antialiased bilinear interpolation."""
    if crop is not None:
        top, left, height, width = crop
        x = x[:, :, top : top + height, left : left + width]
    # On a CPU, PyTorch has no antialiasing in narrow types.
    wide = x.to(accumulate_dtype(x.dtype))
    height, width = (size, size) if isinstance(size, int) else size
    if width > 1:
        return F.interpolate(wide, (height, width), mode="bilinear", antialias=True).to(x.dtype)
    # PyTorch 2.13 resizes the rows wrongly on a CPU if the output has one column, but not if it has one row.
    return F.interpolate(wide.mT, (width, height), mode="bilinear", antialias=True).mT.to(x.dtype)


def orbit(x: Tensor, group: Transforms | str, *, padding_mode: str = "border") -> Tensor:
    """Every ``g_e⁻¹·x``: (B, C, H, W) → (E·B, C, H, W)."""
    table = as_transforms(group).action_table(inverse=True)
    return torch.cat([sample(x, row, padding_mode) for row in rows(table)])


def orbit_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: Transforms | str,
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
    group: Transforms | str,
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


def lift_conv2d(
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
    """``F.conv2d`` of what each member looks at: (B, C, H, W) → (E·B, C_out, H', W'). `nn.LiftConv2d` is the module.

    That is the orbit where all elements are exact; elsewhere that of the inscribed disc, in frames that are turned.
    """
    group = as_group(group)
    x = x if group.permutes(*x.shape[2:]) else within_disc(x)
    members = torch.cat([sample(x, row, padding_mode) for row in rows(lifting_table(group, *x.shape[2:]))])
    return F.conv2d(members, weight, bias, stride, padding, dilation)


def group_conv2d(
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
    """``out[e] = bias + Σ_k g_k·conv2d(x[e·k], weight[:, k])``: (E·B, C, H, W) → (E·B, C_out, H', W').

    ``weight`` is (C_out, E·C, kH, kW), place by place. `nn.GroupConv2d` is the module.
    """
    group = as_group(group)
    members, filters = x.unflatten(0, (group.order, x.shape[0] // group.order)), weight.chunk(group.order, 1)
    out = []
    for e in range(group.order):
        maps = [members[group.compose(e, k)] for k in range(group.order)]
        seen = [F.conv2d(y, w, None, stride, padding, dilation) for y, w in zip(maps, filters, strict=True)]
        table = rows(carrying_table(group, *seen[0].shape[2:]))
        out.append(torch.stack([sample(y, row, padding_mode) for y, row in zip(seen, table, strict=True)]).sum(0))
    y = torch.cat(out)
    return y if bias is None else y + bias[:, None, None]


def orbit_scores(
    vectors: Tensor,
    reference: Tensor,
    *,
    group: Transforms | str,
    beta: float = 1.0,
    similarity: str = "cosine",
) -> OrbitScores:
    """Similarities of the vectors (E·B, d) with the reference (d,), their softmax over the group, and the arg max."""
    order = as_transforms(group).order
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
    group: Transforms | str,
    beta: float = 1.0,
    similarity: str = "cosine",
) -> OrbitScores:
    """`orbit_scores` of ``F.linear(features, weight, bias)``: features (E·B, f), weight (d, f), the others (d,)."""
    vectors = F.linear(features, weight, bias)
    return orbit_scores(vectors, reference, group=group, beta=beta, similarity=similarity)


def orbit_logit_scores(
    logits: Tensor,
    *,
    group: Transforms | str,
    score: str = "confidence",
    index: int | Tensor | None = None,
    beta: float = 1.0,
) -> OrbitScores:
    """A score of `scores` of the logits (E·B, K) of each member, its softmax over the group, and the arg max."""
    order = as_transforms(group).order
    function = NAMED[score] if index is None else of_class(index)
    values = function(logits)
    if values.requires_grad:
        # As in `orbit_scores`: the logits behind scores that pass no gradient are replaced by others.
        usable = is_usable(values.view(order, -1).t()).squeeze(1).repeat(order)
        passing = values.isfinite() & usable
        values = torch.where(passing, function(torch.where(passing[:, None], logits, 0)), values.detach())
    return select(values.view(order, logits.shape[0] // order).t(), beta)


def orbit_losses(
    vectors: Tensor,
    reference: Tensor,
    *,
    group: Transforms | str,
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


def act(
    x: Tensor,
    element: Tensor,
    *,
    group: Transforms | str,
    inverse: bool = False,
    representation: str = "trivial",
    padding_mode: str = "border",
) -> Tensor:
    """Per-sample ``g·x``, or ``g⁻¹·x`` if ``inverse``, for ids ``element`` (B,): (B, C, H, W) → the same."""
    group = as_transforms(group)
    table = rows(group.action_table(inverse=inverse))
    channels = channel_action(group, representation, inverse=inverse)
    out = x
    for e in element.unique().tolist():
        images = (element == e).nonzero().squeeze(1)
        moved = transform_channels(sample(x[images], table[e], padding_mode), *channels, e)
        out = out.index_put((images,), moved)
    return out.clone() if out is x else out


def orbit_average(
    y: Tensor,
    weights: Tensor,
    *,
    group: Transforms | str,
    representation: str = "trivial",
    padding_mode: str = "border",
) -> Tensor:
    """``Σ_e weights[:, e] · g_e·y_e``: (E·B, C, H, W) and (B, E) → (B, C, H, W)."""
    group = as_transforms(group)
    wide = accumulate_dtype(y.dtype)
    members = y.to(wide).reshape(group.order, y.shape[0] // group.order, *y.shape[1:])
    channels = channel_action(group, representation, inverse=False)
    total = torch.zeros_like(members[0])
    for e, row in enumerate(rows(group.action_table(inverse=False))):
        moved = transform_channels(sample(members[e], row, padding_mode), *channels, e)
        total = total + weights[:, e, None, None, None].to(wide) * moved
    return total.to(y.dtype)


def average(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    activations: Tensor,
    probabilities: Tensor,
    *,
    group: Transforms | str,
    top_k: int,
    weights: str,
    representation: str,
    padding_mode: str = "border",
) -> Tensor:
    """``Σ_i w_i · g_i·model(g_i⁻¹·x)`` over the ``top_k`` best elements of each image. See `CanonicalForm.average`."""
    out = []
    for image, scores, shares in zip(x.split(1), activations, probabilities, strict=True):
        best = sorted(range(len(scores)), key=lambda e: (-scores[e].item(), e))[:top_k]
        w = shares[best] if weights == "probabilities" else (scores[best] > -torch.inf).to(scores.dtype)
        if shares.isnan().any():
            best, w = [0], scores.new_ones(1)
        total = torch.zeros(())
        for e, weight in zip(best, w / w.sum(), strict=True):
            ids = torch.tensor([e])
            y = model(act(image, ids, group=group, inverse=True, padding_mode=padding_mode))
            if representation != "invariant":
                y = act(y, ids, group=group, representation=representation, padding_mode=padding_mode)
            total = total + weight * y
        out.append(total)
    return torch.cat(out).to(x.dtype)


def refine(
    score: Callable[[Tensor], Tensor], x: Tensor, *, group: Group | str, rounds: int, padding_mode: str = "border"
) -> tuple[Tensor, Tensor]:
    """A search for the best rotation of each image: activations (B, E·2^rounds) and ids (B,) of the finest group.

    ``score`` takes members (1, C, H, W) to activations (1,). Members that are not evaluated have the activation −inf.
    """
    coarse = as_group(group)
    fine = Group(coarse.n * 2**rounds, coarse.reflections)
    activations = x.new_full((x.shape[0], fine.order), -torch.inf)
    elements = []
    for image, known in zip(x.split(1), activations, strict=True):

        def visit(turn: int, flip: int, image: Tensor = image, known: Tensor = known) -> int:
            e = fine.element(turn, flip)
            member = act(image, torch.tensor([e]), group=fine, inverse=True, padding_mode=padding_mode)
            known[e] = score(member).item()
            return e

        orbit_ids = [visit(turn * 2**rounds, flip) for turn, flip in map(coarse.split, range(coarse.order))]
        best = orbit_ids[int(select(known[None, orbit_ids]).element)]
        for i in reversed(range(rounds)):
            turn, flip = fine.split(best)
            for e in (visit(turn - 2**i, flip), visit(turn + 2**i, flip)):
                best = e if known[e] > known[best] else best
        elements.append(best if is_usable(known[None]) else 0)
    return activations, torch.tensor(elements, dtype=torch.int64)


def contrastive_loss(vectors: Tensor, *, group: Transforms | str, normalize: bool = False) -> Tensor:
    """Mean over (B, E, E) of ``|⟨v_e, v_h⟩|·[e ≠ h]``; vectors (E·B, d).

    A product that is not finite passes no gradient.
    """
    order = as_transforms(group).order
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


def transform_channels(
    x: Tensor, permutation: Sequence[int] | None, mixing: Sequence[float] | None, element: int
) -> Tensor:
    """Apply ρ of one element to the channels of ``x (…, C, H, W)``."""
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
    """The two neighbours of each position on one axis: ``(index, next index, weight, next weight)``."""
    if padding_mode == "border":
        position = position.clamp(0, size - 1)
    first = position.floor().clamp(0, max(size - 2, 0))
    near = (1 - (position - first).abs()).clamp(min=0)
    far = (1 - (position - first - 1).abs()).clamp(min=0) * (size > 1)
    return first.long(), (first.long() + 1).clamp(max=size - 1), near, far


def _footprint(
    base: Matrix, height: int, width: int, padding_mode: str, like: Tensor
) -> tuple[tuple[Tensor, Tensor], ...]:
    """The four source pixels of every output pixel: four pairs of flat indices and weights, (H·W,) each."""
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
    # Opposite corners are added first: a quarter turn or a flip swaps the two sums, and addition commutes exactly.
    value = (terms[0] + terms[1]) + (terms[2] + terms[3])
    return value.to(x.dtype).unflatten(-1, (height, width))


def _interpolate_adjoint(y: Tensor, base: Matrix, padding_mode: str) -> Tensor:
    height, width = y.shape[-2:]
    flat = y.to(accumulate_dtype(y.dtype)).flatten(-2)
    total = torch.zeros_like(flat)
    for index, weight in _footprint(base, height, width, padding_mode, y):
        total = total.index_add(-1, index, flat * weight)
    return total.to(y.dtype).unflatten(-1, (height, width))
