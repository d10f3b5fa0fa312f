"""What can be done to the orbit of some images without making it: a convolution, and what commutes with the action."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from . import ops
from .compiler import assume_constant_result
from .transform_set import Transforms

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Orbit:
    """The orbit of images (B, C, H, W), described but not made."""

    images: Tensor
    group: Transforms
    padding_mode: str
    is_made: bool = False  # of C1: the images belong to whoever reads the orbit, and needn't be copied

    def make(self) -> Tensor:
        """The orbit itself: (E·B, C, H, W)."""
        if self.is_made:
            return self.images
        return ops.orbit(self.images, self.group, padding_mode=self.padding_mode)

    def with_images(self, images: Tensor) -> Orbit:
        return replace(self, images=images)


def _methods(*names: str) -> list[Function]:
    """Functions of torch and methods of tensors that have one of these names."""
    return [getattr(owner, name) for name in names for owner in (Tensor, torch) if hasattr(owner, name)]


#: Functions that can spare the orbit, by kind.
#: creation: of a tensor of the same type on the same device, which reads no more. dropout, pad: where they do nothing.
#: copy: values stay, but for their type and place. product, quotient, sum: with a constant, perhaps in place.
FUNCTIONS: dict[str, list[Function]] = {
    "conv2d": [torch.conv2d, torch.ops.aten.conv2d.default],
    "convolution": [torch.ops.aten.convolution.default],  # what exported networks call
    "creation": _methods("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor"),
    "dropout": [F.dropout],
    "pad": [F.pad],
    "copy": _methods("to", "float", "double", "half", "bfloat16", "contiguous", "clone", "cpu", "cuda"),
    "product": _methods("mul", "mul_", "neg", "neg_"),
    "quotient": _methods("div", "div_", "true_divide", "true_divide_"),
    "sum": _methods("add", "add_", "sub", "sub_", "rsub", "__rsub__"),
}
KINDS: dict[Function, str] = {function: kind for kind, functions in FUNCTIONS.items() for function in functions}

#: Functions that change a tensor in place: assignment, and those whose names end in an underscore.
CHANGES = {
    Tensor.__setitem__,
    *_methods(*(name for name in dir(Tensor) if name.endswith("_") and not name.endswith("__"))),
}


# A compiler can't look functions up in tables, so it takes the answers of these two as constants.
@assume_constant_result
def _kind(func: Function) -> str | None:
    return KINDS.get(func)


@assume_constant_result
def _changes(func: Function) -> bool:
    return func in CHANGES


def changes_in_place(func: Function, kwargs: dict) -> bool:
    return _changes(func) or "out" in kwargs or bool(kwargs.get("inplace"))


def redirected(orbit: Orbit, rows: Tensor, func: Function, args: tuple, kwargs: dict) -> Tensor | Orbit | None:
    """``func(*args, **kwargs)`` without the orbit, which stands as ``rows`` among the arguments.

    What commutes with the action gives the orbit of other images, anything else its result. None means that ``func``
    needs the orbit.
    """
    kind = _kind(func)
    if kind is None:
        return None
    if "input" in kwargs:
        args, kwargs = (kwargs["input"], *args), {name: arg for name, arg in kwargs.items() if name != "input"}
    if kind in ("product", "quotient", "sum"):
        return _combined(orbit, rows, kind, func, args, kwargs)
    if args[0] is not rows:
        return None
    if kind == "creation":
        return func(orbit.images, *args[1:], **kwargs)
    if kind == "copy":
        images = func(orbit.images, *args[1:], **kwargs)
        return orbit.with_images(images) if images.is_floating_point() else None
    return SPARING[kind](orbit, *args[1:], **kwargs)


def _combined(orbit: Orbit, rows: Tensor, kind: str, func: Function, args: tuple, kwargs: dict) -> Orbit | None:
    """The orbit times, over, plus or minus a constant; None if the other argument is no constant."""
    constants = [arg for arg in args if arg is not rows]
    commutes = (
        len(constants) == len(args) - 1
        and all(_is_constant(value, orbit.images) for value in constants)
        and (kind != "quotient" or args[0] is rows)
        and (kind != "sum" or _commutes_with_sums(orbit))
        and not [name for name in kwargs if name != "alpha"]
    )
    if not commutes:
        return None
    images = orbit.images.clone() if _changes(func) else orbit.images
    return orbit.with_images(func(*[images if arg is rows else arg for arg in args], **kwargs))


def conv2d(
    orbit: Orbit, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation="none"
) -> Tensor | None:
    """``F.conv2d`` of the orbit, then an activation; None where `ops.orbit_conv2d` can't do it."""
    if groups != 1 or not all(t is None or _is_plain(t) for t in (weight, bias)):
        return None
    try:
        return ops.orbit_conv2d(
            orbit.images,
            weight,
            bias,
            group=orbit.group,
            stride=_pair(stride),
            padding=padding if isinstance(padding, str) else _pair(padding),
            dilation=_pair(dilation),
            padding_mode=orbit.padding_mode,
            activation=activation,
        )
    except (TypeError, ValueError):  # F.conv2d refuses the same arguments, or "same" pads two sides differently
        return None


def _convolution(orbit: Orbit, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    """``aten.convolution`` of the orbit, likewise."""
    return None if transposed else conv2d(orbit, weight, bias, stride, padding, dilation, groups)


def _dropout(orbit: Orbit, p=0.5, training=True, inplace=False) -> Orbit | None:
    return None if training and p > 0 else orbit


def _pad(orbit: Orbit, pad, mode="constant", value=None) -> Orbit | None:
    return None if any(pad) else orbit


#: What spares the orbit by kind, with the arguments that follow the input.
SPARING: dict[str, Function] = {"conv2d": conv2d, "convolution": _convolution, "dropout": _dropout, "pad": _pad}


def _is_plain(t: object) -> bool:
    """Whether t is a tensor without a dispatch of its own, such as sharded and quantized weights have."""
    return isinstance(t, Tensor) and not is_traceable_wrapper_subclass(t)


def _pair(value: Any) -> Any:
    """A stride, padding or dilation. ``F.conv2d`` takes a number, or a sequence of one or two."""
    return value if isinstance(value, int) or len(value) == 2 else value[0]


def _commutes_with_sums(orbit: Orbit) -> bool:
    """Whether a constant may be added before the orbit is made: not where zeros are blended in at the edge."""
    return orbit.padding_mode == "border" or orbit.group.permutes(*orbit.images.shape[2:])


def _is_constant(value: object, images: Tensor) -> bool:
    """Whether a factor or summand is the same for all pixels and all images: one number, or one for each channel."""
    if not isinstance(value, Tensor):
        return isinstance(value, (int, float))
    if value.dim() > 4:
        return False
    shape = [1] * (4 - value.dim()) + list(value.shape)
    return shape[0] == shape[2] == shape[3] == 1 and shape[1] in (1, images.shape[1])
