"""What `orbit_conv2d` and its relatives share: checks of their arguments, and uninitialized results."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.nn.modules.utils import _pair

from .. import checks
from ..geometry import order_of
from ..layers import ACTIVATIONS, output_size
from ..transform_set import as_transforms


def layer_options(x, weight, bias, group, stride, padding, dilation, padding_mode, activation) -> tuple:
    """The arguments that the torch op takes after its tensors.

    Raises an error that names the argument that is off.
    """
    checks.images("x", x)
    checks.tensor("weight", weight)
    if weight.dim() != 4 or weight.shape[1] != x.shape[1] or 0 in weight.shape[2:]:
        raise ValueError(f"weight: expected (C_out, {x.shape[1]}, kH, kW), got {checks.shape(weight)}")
    if bias is not None:
        checks.vector("bias", bias, weight.shape[0])
    checks.same_device(x=x, weight=weight, bias=bias)
    checks.same_dtype(x=x, weight=weight, bias=bias)
    checks.padding_mode(padding_mode)
    checks.one_of("activation", activation, ACTIVATIONS)
    stride, dilation = _positive("stride", stride), _positive("dilation", dilation)
    padding = _padding(padding, weight.shape[2:], stride, dilation)
    for axis, size, p, d, k in zip(("H", "W"), x.shape[2:], padding, dilation, weight.shape[2:], strict=True):
        if size + 2 * p >= 2**31:
            raise ValueError(f"padding: expected less than 2³¹ rows and columns with it, got {p} and {axis} = {size}")
        if size + 2 * p < d * (k - 1) + 1:
            raise ValueError(f"x: expected {axis} of at least {d * (k - 1) + 1 - 2 * p} for this kernel, got {size}")
    table = as_transforms(group).action_table(inverse=True)
    return table, stride, padding, dilation, padding_mode, activation


def _positive(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = _pair(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v > 0 for v in pair):
        raise ValueError(f"{name}: expected a positive int or a pair of them, got {value!r}")
    return tuple(pair)


def _padding(
    value: int | tuple[int, int] | str, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    if value == "valid":
        return (0, 0)
    if value == "same":
        total_h, total_w = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if stride != (1, 1) or total_h % 2 or total_w % 2:
            raise ValueError("padding: 'same' needs stride 1 and an odd dilated kernel")
        return total_h // 2, total_w // 2
    pair = _pair(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 0 for v in pair):
        raise ValueError(f"padding: expected 'same', 'valid', an int or a pair of them, got {value!r}")
    return tuple(pair)


def output_format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """The memory format of ``F.conv2d(x, weight)``: channels_last if either operand is."""
    formats = {suggest_memory_format(x), suggest_memory_format(weight)}
    return torch.channels_last if torch.channels_last in formats else torch.contiguous_format


def new_output(
    x: Tensor, weight: Tensor, table, stride, padding, dilation, memory_format: torch.memory_format | None = None
) -> Tensor:
    """An uninitialized output (E·B, C_out, H', W')."""
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    shape = (order_of(table) * x.shape[0], weight.shape[0], *size)
    memory_format = memory_format or output_format(x, weight)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def in_one_order(backward: Callable) -> Callable:
    """A backward pass ``(grad, …)`` that runs on one core in deterministic mode.

    oneDNN and MKL cut the sums of a weight gradient by the number of threads, and so differ in the last bits. Our own
    kernels do not.
    """

    @wraps(backward)
    def run(grad, *args):
        threads = torch.get_num_threads()
        if threads == 1 or grad.device.type != "cpu" or not torch.are_deterministic_algorithms_enabled():
            return backward(grad, *args)
        torch.set_num_threads(1)
        try:
            return backward(grad, *args)
        finally:
            torch.set_num_threads(threads)

    return run


def new_gradients(x: Tensor, weight: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialized gradients of x, weight and bias; (0,) for each that is not needed."""
    shapes = [s if n else (0,) for s, n in zip((x.shape, weight.shape, weight.shape[:1]), needs, strict=True)]
    return x.new_empty(shapes[0]), weight.new_empty(shapes[1]), weight.new_empty(shapes[2])
