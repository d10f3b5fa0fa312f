"""Argument checks shared by the public functions: each names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from .dtypes import DTYPES


def shape(t: Tensor) -> str:
    return str(tuple(t.shape))


def tensor(name: str, t: object) -> Tensor:
    """Return t itself, which a type checker then knows to be a Tensor."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(t).__name__}")
    return t


def floating(name: str, t: Tensor) -> None:
    if t.dtype not in DTYPES:
        raise TypeError(f"{name}: expected float64, float32, float16 or bfloat16, got {t.dtype}")


def images(name: str, x: Tensor) -> None:
    tensor(name, x)
    if x.dim() != 4:
        raise ValueError(f"{name}: expected (B, C, H, W), got {shape(x)}")
    if 0 in x.shape[1:]:
        raise ValueError(f"{name}: expected at least one channel, row and column, got {shape(x)}")
    floating(name, x)


def same_device(**tensors: Tensor | None) -> None:
    present = {name: t for name, t in tensors.items() if t is not None}
    (first, head), *rest = present.items()
    for name, t in rest:
        if t.device != head.device:
            raise ValueError(f"{name}: expected the device of {first}, {head.device}, got {t.device}")


def same_dtype(**tensors: Tensor | None) -> None:
    present = {name: t for name, t in tensors.items() if t is not None}
    (first, head), *rest = present.items()
    for name, t in rest:
        floating(name, t)
        # Autocast brings them to one dtype, but for float64. Meta tensors have no autocast.
        cast = not t.is_meta and torch.is_autocast_enabled(t.device.type) and torch.float64 not in (t.dtype, head.dtype)
        if t.dtype != head.dtype and not cast:
            raise TypeError(f"{name}: expected the dtype of {first}, {head.dtype}, got {t.dtype}")


def one_of(name: str, value: object, choices: Collection) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")


def padding_mode(value: object) -> None:
    one_of("padding_mode", value, ("border", "zeros"))


def size(name: str, value: object) -> None:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name}: expected (H, W), got {value!r}")
    for n in value:
        if not isinstance(n, int):
            raise TypeError(f"{name}: expected two ints (H, W), got {value!r}")
        if n < 1:
            raise ValueError(f"{name}: expected at least one row and column, got {value!r}")


def vectors(name: str, t: Tensor, order: int, size: str = "d") -> None:
    """Whether t is (E·B, d); ``size`` names d in the error."""
    tensor(name, t)
    if t.dim() != 2:
        raise ValueError(f"{name}: expected (E·B, {size}), got {shape(t)}")
    floating(name, t)
    orbit_rows(name, t, order)


def vector(name: str, t: Tensor, size: int) -> None:
    tensor(name, t)
    if t.shape != (size,):
        raise ValueError(f"{name}: expected ({size},), got {shape(t)}")


def number(name: str, value: object) -> None:
    if isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a number, got a Tensor")


def similarity(value: object) -> None:
    one_of("similarity", value, ("cosine", "dot"))


def orbit_rows(name: str, t: Tensor, order: int) -> None:
    if t.shape[0] % order:
        raise ValueError(f"{name}: expected E·B rows with E = {order}, got {shape(t)}")


def channels(name: str, x: Tensor, representation: str, order: int) -> None:
    count = x.shape[1]
    if representation == "regular" and count % order:
        raise ValueError(f"{name}: expected channels divisible by E = {order} for 'regular', got {count}")
    if representation == "vector" and count % 2:
        raise ValueError(f"{name}: expected an even number of channels for 'vector', got {count}")


def _is_readable(t: Tensor) -> bool:
    """Whether the values of t may be looked at.

    On a GPU, that would wait for the stream; under a compiler, it would break the graph. Fake tensors have no values,
    and those of `torch.func.vmap` have many.
    """
    if t.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return type(t) is Tensor and not torch._C._are_functorch_transforms_active()


def elements(name: str, ids: Tensor, batch: int, order: int) -> None:
    tensor(name, ids)
    if ids.dtype != torch.int64:
        raise TypeError(f"{name}: expected int64 ids, got {ids.dtype}")
    if ids.shape != (batch,):
        raise ValueError(f"{name}: expected ({batch},), got {shape(ids)}")
    if batch and _is_readable(ids):
        low, high = (int(v) for v in torch.aminmax(ids))
        if low < 0 or high >= order:
            raise ValueError(f"{name}: expected ids in [0, {order}), got {low if low < 0 else high}")
