"""`act_masks`: masks and label maps that follow their images."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, ops
from ..dtypes import DTYPES, accumulate_dtype
from ..transform_set import Transforms
from ._entries import Targets, check_action, check_targets, like, plain
from ._nearest import INTEGERS, nearest_pixels, take


def act_masks(
    masks: Targets,
    element: Tensor,
    *,
    group: Transforms | str,
    inverse: bool = False,
    padding_mode: str = "zeros",
    fill: float = 0,
) -> Targets:
    """Masks under g, or g⁻¹ if ``inverse``, about their own centre, whatever their size.

    Equivalent to: ``masks`` surrounded by ``fill``, then `equifast.act`, then cropped to the old size. Floating masks
    are interpolated as images are. Integer and boolean masks take the nearest pixel, so no new label appears. Of both
    kinds, quarter turns and flips of square masks are exact permutations, and so are half turns and flips of any mask.

    A position halfway between two pixels takes the one farther from the centre. So two laws hold bit for bit, for every
    g and every exact h (a quarter turn or flip that maps the pixel grid onto itself):

    * h first, then g, is the element g·h. Hence the canonical masks of h·x are those of x.
    * g first, then h, is the element h·g. For a flip h this needs sides of odd length, or a group in which no position
      falls exactly on the middle line between the two central pixels. D8 has such positions, on at most two pixels of
      each row. No choice between the two pixels satisfies both laws there; this one keeps the first.

    Args:
        masks: (B, H, W) or (B, N, H, W), or a list with one tensor (N_i, H, W) for each of B images, all of one
            (H, W). bool, any integer type, float64, float32, float16 or bfloat16; every entry keeps its own dtype.
            A ``tv_tensors.Mask`` stays one.
        element: int64 ids (B,) in [0, E), as `CanonicalForm.element`.
        group: a ``Group``, a ``TransformSet`` or a name such as ``"C4"``.
        inverse: act with g⁻¹, as canonicalizing an image does.
        padding_mode: "zeros" has ``fill`` beyond the edge of a mask, "border" repeats its edge. Unlike that of images,
            the default is "zeros": the repeated edge of an object would make it larger than it is.
        fill: the value beyond the edge, such as 255 for labels that a loss ignores, or NaN. The dtype of every entry
            has to be able to hold it.

    Returns:
        A tensor or a list, with the shapes and dtypes of ``masks``.

    Raises:
        ValueError, TypeError: naming the argument, and in a list the entry, such as ``masks[1]``.
    """
    group = check_action(group, element)
    checks.padding_mode(padding_mode)
    _check_fill(fill, padding_mode)
    sizes: list[tuple[int, ...]] = []

    def check(name: str, values: Tensor, batch: int | None) -> None:
        if batch is None and values.dim() != 3:
            raise ValueError(f"{name}: expected (N, H, W), got {checks.shape(values)}")
        if batch is not None and (values.dim() not in (3, 4) or values.shape[0] != batch):
            raise ValueError(f"{name}: expected ({batch}, H, W) or ({batch}, N, H, W), got {checks.shape(values)}")
        sizes.append(tuple(values.shape[-2:]))
        if sizes[-1] != sizes[0]:
            raise ValueError(f"{name}: expected the size of masks[0], {sizes[0]}, got {sizes[-1]}")
        if values.dtype not in (*INTEGERS, *DTYPES):
            expected = "bool, integers, float64, float32, float16 or bfloat16"
            raise TypeError(f"{name}: expected {expected}, got {values.dtype}")
        if not _holds(values.dtype, fill):
            raise ValueError(f"fill: expected a value that {name} can hold as {values.dtype}, got {fill}")

    check_targets("masks", masks, element, check)
    entries = [masks] if isinstance(masks, Tensor) else masks
    # The nearest pixels of all images, found at once, if any entry holds labels.
    has_labels = any(entry.numel() and not entry.is_floating_point() for entry in entries)
    sources = nearest_pixels(element, group, inverse, *sizes[0]) if has_labels else None

    def move(values: Tensor, images: slice) -> Tensor:
        """Masks (n, …, H, W) of the n images of a slice."""
        if values.numel() == 0:
            return values.clone()
        planes = values[:, None] if values.dim() == 3 else values
        if values.is_floating_point():
            ids = element[images]
            moved = _interpolated(planes, ids, fill, group=group, inverse=inverse, padding_mode=padding_mode)
            return moved.reshape(values.shape)
        assert sources is not None  # the values are labels
        return take(planes, sources.of(images), fill if padding_mode == "zeros" else None).reshape(values.shape)

    if isinstance(masks, Tensor):
        return like(masks, move(plain(masks), slice(None)))
    return [like(entry, move(plain(entry)[None], slice(i, i + 1)).squeeze(0)) for i, entry in enumerate(masks)]


def _check_fill(fill: object, padding_mode: str) -> None:
    if not isinstance(fill, (int, float)):
        raise TypeError(f"fill: expected a number, got {type(fill).__name__}")
    if padding_mode == "border" and fill != 0:
        raise ValueError(f"fill: expected 0 with padding_mode 'border', which repeats the edge, got {fill}")


def _holds(dtype: torch.dtype, value: float) -> bool:
    """Whether a tensor of this dtype can hold the value."""
    if dtype.is_floating_point:
        return True
    if dtype == torch.bool:
        return value in (0, 1)
    limits = torch.iinfo(dtype)
    return limits.min <= value <= limits.max and value == int(value)


def _interpolated(
    planes: Tensor, element: Tensor, fill: float, *, group: Transforms, inverse: bool, padding_mode: str
) -> Tensor:
    """Floating planes (B, N, H, W), moved as `equifast.act` moves images, with ``fill`` beyond the edge."""

    def act(images: Tensor) -> Tensor:
        return ops.act(images, element, group=group, inverse=inverse, padding_mode=padding_mode)

    if fill == 0:
        return act(planes)
    # The weight of the outside in each output pixel. In float64 the weights of a pixel add up to exactly 1, so it is
    # exactly 0 where the pixel reads the inside only.
    ones = planes.new_ones((planes.shape[0], 1, *planes.shape[-2:]), dtype=torch.float64)
    outside = 1 - act(ones)
    dtype = accumulate_dtype(planes.dtype)
    moved = act(planes.to(dtype))
    return torch.where(outside == 0, moved, moved + (fill * outside).to(dtype)).to(planes.dtype)
