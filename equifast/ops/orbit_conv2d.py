"""`orbit_conv2d`: a convolution over the orbit, which is never in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.nn.modules.utils import _pair

from .. import checks
from ..backends import selection
from ..geometry import ROW, order_of
from ..groups import Group, as_group
from ..layers import ACTIVATIONS, output_size
from . import _resample
from .registry import CHOSEN, no_double_backward, register

#: Orbit bytes at a time: what the caches of two cores hold together with the convolution's output.
CHUNK_BYTES = 7 << 18

#: Up to these many input channels and weights, our own kernel measures faster than oneDNN on a ready orbit.
DIRECT_CHANNELS, DIRECT_WEIGHTS = 4, 1 << 16

#: Columns of a kernel whose weight gradient our own takes, undilated.
DIRECT_WIDTH = 7


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
    activation: str = "none",
) -> Tensor:
    """A 2-D convolution of every g_e⁻¹·x: (B, C, H, W) → (E·B, C_out, H', W'); the orbit is never in memory.

    Equivalent to: ``F.conv2d(equifast.orbit(x, group), weight, bias, stride, padding, dilation)``. Backward keeps x
    and makes the orbit again.

    Args:
        x: images, float64, float32, float16 or bfloat16, any strides; B may be 0.
        weight: (C_out, C, kH, kW), of the dtype of x; bias: (C_out,) or None.
        group: a ``Group`` or a name such as ``"C4"``.
        stride, padding, dilation: as ``F.conv2d``; padding may be ``"same"`` or ``"valid"``, and is with zeros.
        padding_mode: of the rotation, as `orbit`.
        activation: ``"relu"``, ``"gelu"`` or ``"silu"`` in the same pass; inference only.

    Raises:
        ValueError, TypeError: naming the argument that is off. RuntimeError: an activation where gradients are needed.
    """
    options = _checked(x, weight, bias, group, stride, padding, dilation, padding_mode, activation)
    return torch.ops.equifast.orbit_conv2d(x, weight, bias, *options)


def _checked(x, weight, bias, group, stride, padding, dilation, padding_mode, activation) -> tuple:
    """What the op takes after its tensors, or an error that names the argument that is off."""
    checks.images("x", x)
    checks.tensor("weight", weight)
    if weight.dim() != 4 or weight.shape[1] != x.shape[1] or 0 in weight.shape[2:]:
        raise ValueError(f"weight: expected (C_out, {x.shape[1]}, kH, kW), got {checks.shape(weight)}")
    if bias is not None:
        checks.tensor("bias", bias)
        if bias.shape != (weight.shape[0],):
            raise ValueError(f"bias: expected ({weight.shape[0]},), got {checks.shape(bias)}")
    checks.same_device(x=x, weight=weight, bias=bias)
    checks.same_dtype(x=x, weight=weight, bias=bias)
    checks.padding_mode(padding_mode)
    checks.one_of("activation", activation, ACTIVATIONS)
    stride, dilation = _positive("stride", stride), _positive("dilation", dilation)
    padding = _padding(padding, weight.shape[2:], stride, dilation)
    for axis, size, p, d, k in zip(("H", "W"), x.shape[2:], padding, dilation, weight.shape[2:], strict=True):
        if size + 2 * p < d * (k - 1) + 1:
            raise ValueError(f"x: expected {axis} of at least {d * (k - 1) + 1 - 2 * p} for this kernel, got {size}")
    table = as_group(group).action_table(inverse=True)
    return table, stride, padding, dilation, padding_mode, activation


def _positive(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = _pair(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v > 0 for v in pair):
        raise ValueError(f"{name}: expected a positive int or a pair of them, got {value!r}")
    return tuple(pair)


def _padding(value, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]):
    if value == "valid":
        return (0, 0)
    if value == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if stride != (1, 1) or any(t % 2 for t in total):
            raise ValueError("padding: 'same' needs stride 1 and an odd dilated kernel")
        return tuple(t // 2 for t in total)
    pair = _pair(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 0 for v in pair):
        raise ValueError(f"padding: expected 'same', 'valid', an int or a pair of them, got {value!r}")
    return tuple(pair)


def _chunks(x: Tensor, order: int):
    """Runs of images and of elements whose orbit fits the cache: (first image, last, first element, last)."""
    image = max(x[:1].numel() * x.element_size(), 1)
    images = max(CHUNK_BYTES // (image * order), 1)
    elements = order if image * order <= CHUNK_BYTES else max(CHUNK_BYTES // image, 1)
    for b in range(0, x.shape[0], images):
        for e in range(0, order, elements):
            yield b, min(b + images, x.shape[0]), e, min(e + elements, order)


def _rows(x: Tensor, table, chunk: tuple[int, int, int, int], padding_mode: str) -> Tensor:
    b, b_end, e, e_end = chunk
    part = table[ROW * e : ROW * e_end]
    return torch.ops.equifast.orbit(x[b:b_end], None, part, [], [], padding_mode, False)


def _eager(x, weight, bias, table, stride, padding, dilation, padding_mode, activation):
    options = (stride, padding, dilation, padding_mode, activation)
    if _direct(x, weight):
        last = _memory_format(x, weight) == torch.channels_last
        return torch.ops.equifast.orbit_conv2d_direct(x, weight, bias, table, *options, last)
    out = _fake(x, weight, bias, table, *options)
    order = order_of(table)
    by_element = _resample.unflatten(out, order)
    finish = ACTIVATIONS[activation]
    for chunk in _chunks(x, order) if out.numel() else ():
        b, b_end, e, e_end = chunk
        y = finish(F.conv2d(_rows(x, table, chunk, padding_mode), weight, bias, stride, padding, dilation))
        by_element[e:e_end, b:b_end] = _resample.unflatten(y, e_end - e)
    return out


def _direct(x: Tensor, weight: Tensor) -> bool:
    """Whether the first layer is one that our own kernel takes: the native op is there, and few channels come in."""
    native = x.device.type == "cpu" and CHOSEN["cpu"] == "cpu"
    small = x.shape[1] <= DIRECT_CHANNELS and weight.numel() <= DIRECT_WEIGHTS
    return native and x.dtype == torch.float32 and small


def _memory_format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """As F.conv2d has it: channels_last if either operand is."""
    formats = {suggest_memory_format(x), suggest_memory_format(weight)}
    return torch.channels_last if torch.channels_last in formats else torch.contiguous_format


def _fake(x, weight, bias, table, stride, padding, dilation, padding_mode, activation):
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    shape = (order_of(table) * x.shape[0], weight.shape[0], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_memory_format(x, weight))


def _direct_eager(x, weight, bias, table, stride, padding, dilation, padding_mode, activation, channels_last):
    rows = torch.ops.equifast.orbit(x, None, table, [], [], padding_mode, False)
    y = ACTIVATIONS[activation](F.conv2d(rows, weight, bias, stride, padding, dilation))
    return y.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _direct_fake(x, weight, bias, table, stride, padding, dilation, padding_mode, activation, channels_last):
    out = _fake(x, weight, bias, table, stride, padding, dilation, padding_mode, activation)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(out.shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


register("orbit_conv2d_direct", eager=_direct_eager, fake=_direct_fake)


def _direct_backward_eager(grad, x, kernel, table, stride, padding, dilation, padding_mode, channels_last):
    weight = x.new_empty((grad.shape[1], x.shape[1], *kernel))
    rows = torch.ops.equifast.orbit(x, None, table, [], [], padding_mode, False)
    options = (weight.shape[:1], stride, padding, dilation, False, [0, 0], 1, [False, True, True])
    return torch.ops.aten.convolution_backward(grad, rows, weight, *options)[1:]


def _direct_backward_fake(grad, x, kernel, table, stride, padding, dilation, padding_mode, channels_last):
    return x.new_empty((grad.shape[1], x.shape[1], *kernel)), x.new_empty(grad.shape[1])


register("orbit_conv2d_direct_backward", eager=_direct_backward_eager, fake=_direct_backward_fake)


def _setup_context(ctx, inputs, output):
    x, weight, bias, *ctx.options, activation = inputs
    if activation != "none":
        raise RuntimeError("orbit_conv2d: activation is for inference; apply it to the output to differentiate")
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad):
    x, weight = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    grads = torch.ops.equifast.orbit_conv2d_backward(grad, x, weight, *ctx.options, needs)
    return *(g if n else None for g, n in zip(grads, needs, strict=True)), *[None] * 6


register(
    "orbit_conv2d",
    eager=_eager,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    has_cpu_kernel=False,  # many channels: oneDNN convolves what our kernel makes, a cache-sized chunk at a time
    autocast=lambda dtype: dtype,
    prefers_triton=lambda x, weight, *rest: selection.prefers_triton(weight),
)


def _backward_eager(grad, x, weight, table, stride, padding, dilation, padding_mode, needs):
    if not needs[0] and _direct(x, weight) and weight.shape[3] <= DIRECT_WIDTH and dilation[1] == 1:
        last = suggest_memory_format(grad) == torch.channels_last
        options = (table, stride, padding, dilation, padding_mode, last)
        grads = torch.ops.equifast.orbit_conv2d_direct_backward(grad, x, weight.shape[2:], *options)
        return x.new_empty(0), *(g if n else g.new_empty(0) for g, n in zip(grads, needs[1:], strict=True))
    grads = _backward_fake(grad, x, weight, table, stride, padding, dilation, padding_mode, needs)
    grad_x, _, _ = grads
    # Sums over chunks run in float32 at least.
    wide = torch.promote_types(weight.dtype, torch.float32)
    sums = [torch.zeros(g.shape, dtype=wide, device=g.device) for g in grads[1:]]
    order = order_of(table)
    by_element = _resample.unflatten(grad, order)
    for chunk in _chunks(x, order) if grad.numel() else ():
        b, b_end, e, e_end = chunk
        parts = torch.ops.aten.convolution_backward(
            by_element[e:e_end, b:b_end].flatten(0, 1),
            _rows(x, table, chunk, padding_mode),
            weight,
            [weight.shape[0]],
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            1,
            needs,
        )
        if needs[0]:
            part = table[ROW * e : ROW * e_end]
            rows = _resample.unflatten(parts[0], e_end - e)
            into = torch.ops.equifast.orbit_average(rows, None, part, [], [], padding_mode, True)
            grad_x[b:b_end] = into if e == 0 else grad_x[b:b_end] + into
        # Asked for one of the two, oneDNN gives both.
        for total, part, needed in zip(sums, parts[1:], needs[1:], strict=True):
            if needed:
                total += part
    if needs[0] and not grad.numel():
        grad_x.zero_()
    return grad_x, *(s.to(weight.dtype) for s in sums)


def _backward_fake(grad, x, weight, table, stride, padding, dilation, padding_mode, needs):
    shapes = (x.shape, weight.shape, weight.shape[:1])
    like = (x, weight, weight)
    return tuple(t.new_empty(s if n else (0,)) for t, s, n in zip(like, shapes, needs, strict=True))


register(
    "orbit_conv2d_backward",
    eager=_backward_eager,
    fake=_backward_fake,
    backward=no_double_backward("orbit_conv2d"),
    has_cpu_kernel=False,
    prefers_triton=lambda grad, x, weight, *rest: selection.prefers_triton(weight),
)
