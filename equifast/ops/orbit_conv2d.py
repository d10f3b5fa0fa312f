"""`orbit_conv2d`: a convolution over the orbit, which is never in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._prims_common import suggest_memory_format

from ..backends import selection
from ..geometry import ROW, order_of
from ..layers import ACTIVATION_GRADIENTS, ACTIVATIONS, activated
from ..transform_set import Transforms
from . import _half_turns
from ._convolution import conv2d, conv2d_backward
from ._layers import in_one_order, layer_options, new_gradients, new_output, output_format
from ._patches import add_grad_weight, are_patches, convolve
from ._rows import by_element
from .orbit_conv2d_direct import DirectLayer, conv2d_direct, suits_direct, suits_direct_backward
from .registry import no_double_backward, register

#: Bytes of the orbit at a time. The caches of two cores hold them together with the output of their convolution.
CHUNK_BYTES = 7 << 18


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
    activation: str = "none",
) -> Tensor:
    """A 2-D convolution of every g_e⁻¹·x: (B, C, H, W) → (E·B, C_out, H', W'); the orbit is never in memory.

    Equivalent to: ``F.conv2d(equifast.orbit(x, group), weight, bias, stride, padding, dilation)``. Backward keeps x
    and makes the orbit again.

    Args:
        x: images, float64, float32, float16 or bfloat16, any strides; B may be 0.
        weight: (C_out, C, kH, kW), of the dtype of x; bias: (C_out,) or None.
        group: a ``Group``, a ``TransformSet`` or a name such as ``"C4"``.
        stride, padding, dilation: as ``F.conv2d``; padding is with zeros, and may be ``"same"`` or ``"valid"``.
        padding_mode: outside the image that is rotated, as `orbit`.
        activation: ``"relu"``, ``"gelu"`` or ``"silu"``, applied in the same pass. Backward then convolves again.

    Raises:
        ValueError, TypeError: naming the argument that is off.
    """
    options = layer_options(x, weight, bias, group, stride, padding, dilation, padding_mode, activation)
    return torch.ops.equifast.orbit_conv2d(x, weight, bias, *options)


def _chunks(x: Tensor, order: int):
    """Chunks of the orbit that fit the cache: (first image, end, first element, end)."""
    image = max(x[:1].numel() * x.element_size(), 1)
    images = max(CHUNK_BYTES // (image * order), 1)
    elements = order if image * order <= CHUNK_BYTES else max(CHUNK_BYTES // image, 1)
    for b in range(0, x.shape[0], images):
        for e in range(0, order, elements):
            yield b, min(b + images, x.shape[0]), e, min(e + elements, order)


def _orbit_of_chunk(x: Tensor, table, chunk: tuple[int, int, int, int], padding_mode: str) -> Tensor:
    """The orbit rows of a chunk."""
    b, b_end, e, e_end = chunk
    part = table[ROW * e : ROW * e_end]
    return torch.ops.equifast.orbit(x[b:b_end], None, part, [], [], padding_mode, False)


def _eager(x, weight, bias, table, stride, padding, dilation, padding_mode, activation):
    if suits_direct(x, weight):
        channels_last = output_format(x, weight) == torch.channels_last
        layer = DirectLayer(weight, bias, stride, padding, dilation, activation)
        return conv2d_direct(x, [layer], table, padding_mode, channels_last)
    out = new_output(x, weight, table, stride, padding, dilation)
    order = order_of(table)
    members = by_element(out, order)
    activate = ACTIVATIONS[activation]
    by_patches = are_patches(x, weight, stride, padding, dilation)
    pairs = _half_turns.pairs_of(table, x, weight) if by_patches and out.numel() else []
    if pairs and _half_turns.is_moderate(x, weight):
        firsts, parts = _half_turns.first_rows(table, pairs), _half_turns.split_weight(weight)
        for chunk in _chunks(x, len(pairs)):
            b, b_end, e, e_end = chunk
            rows = _orbit_of_chunk(x, firsts, chunk, padding_mode)
            outs = _half_turns.in_pairs(members, pairs[e:e_end], range(b, b_end))
            _half_turns.convolve_pairs(rows, weight, parts, bias, outs, activate)
        return out
    for chunk in _chunks(x, order) if out.numel() else ():
        b, b_end, e, e_end = chunk
        rows = _orbit_of_chunk(x, table, chunk, padding_mode)
        part = members[e:e_end, b:b_end]
        if by_patches:
            convolve(rows, weight, bias, part)
            activate(part)
        else:
            y = activate(conv2d(rows, weight, bias, stride, padding, dilation))
            part.copy_(by_element(y, e_end - e))
    return out


def _composed(x, weight, bias, table, stride, padding, dilation, padding_mode, activation):
    rows = torch.ops.equifast.orbit(x, None, table, [], [], padding_mode, False)
    return activated(F.conv2d(rows, weight, bias, stride, padding, dilation), activation)


def _fake(x, weight, bias, table, stride, padding, dilation, padding_mode, activation):
    return new_output(x, weight, table, stride, padding, dilation)


def _setup_context(ctx, inputs, output):
    x, weight, bias, *ctx.options, ctx.activation = inputs
    ctx.save_for_backward(x, weight, None if ctx.activation == "none" else bias)


def _backward(ctx, grad):
    x, weight, bias = ctx.saved_tensors
    if ctx.activation != "none":
        z = torch.ops.equifast.orbit_conv2d(x, weight, bias, *ctx.options, "none")
        grad = ACTIVATION_GRADIENTS[ctx.activation](grad, z)
    needs = list(ctx.needs_input_grad[:3])
    grads = torch.ops.equifast.orbit_conv2d_backward(grad, x, weight, *ctx.options, needs)
    return *(g if n else None for g, n in zip(grads, needs, strict=True)), *[None] * 6


register(
    "orbit_conv2d",
    eager=_eager,
    composed=_composed,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    has_cpu_kernel=False,  # many channels: oneDNN convolves what our kernel makes, a cache-sized chunk at a time
    autocast=lambda dtype: dtype,
    prefers_triton=lambda x, weight, *rest: selection.prefers_triton(weight),
)


def _backward_eager(grad, x, weight, table, stride, padding, dilation, padding_mode, needs):
    if not needs[0] and suits_direct_backward(x, weight, dilation):
        channels_last = suggest_memory_format(grad) == torch.channels_last
        options = (table, stride, padding, dilation, padding_mode, channels_last)
        grads = torch.ops.equifast.orbit_conv2d_direct_backward(grad, x, weight.shape[2:], *options)
        return x.new_empty(0), *(g if n else g.new_empty(0) for g, n in zip(grads, needs[1:], strict=True))
    return _backward_by_chunks(grad, x, weight, table, stride, padding, dilation, padding_mode, needs)


@in_one_order
def _backward_by_chunks(grad, x, weight, table, stride, padding, dilation, padding_mode, needs):
    grads = new_gradients(x, weight, needs)
    grad_x, _, _ = grads
    # Sums over chunks run in float32 at least.
    wide = torch.promote_types(weight.dtype, torch.float32)
    sums = [torch.zeros(g.shape, dtype=wide, device=g.device) for g in grads[1:]]
    order = order_of(table)
    members = by_element(grad, order)
    by_patches = not needs[0] and are_patches(x, weight, stride, padding, dilation)
    if by_patches and needs[1] and grad.numel() and (pairs := _half_turns.pairs_of(table, x, weight)):
        firsts, (even, odd) = _half_turns.first_rows(table, pairs), _half_turns.split_weight(weight)
        totals = torch.zeros_like(even), torch.zeros_like(odd)
        for chunk in _chunks(x, len(pairs)):
            b, b_end, e, e_end = chunk
            rows = _orbit_of_chunk(x, firsts, chunk, padding_mode)
            _half_turns.add_gradients(
                rows, weight, _half_turns.in_pairs(members, pairs[e:e_end], range(b, b_end)), totals
            )
        grad_weight = _half_turns.joined(*totals, weight=weight)
        if _half_turns.is_moderate(grad_weight):
            return grad_x, grad_weight, members.sum((0, 1, 3, 4)) if needs[2] else grads[2]
    for chunk in _chunks(x, order) if grad.numel() else ():
        b, b_end, e, e_end = chunk
        orbit, upstream = _orbit_of_chunk(x, table, chunk, padding_mode), members[e:e_end, b:b_end]
        if by_patches:
            if needs[1]:
                add_grad_weight(orbit, weight, upstream, sums[0])
            if needs[2]:
                sums[1] += upstream.sum((0, 1, 3, 4))
            continue
        parts = conv2d_backward(upstream.flatten(0, 1), orbit, weight, stride, padding, dilation, needs)
        if needs[0]:
            part = table[ROW * e : ROW * e_end]
            rows = by_element(parts[0], e_end - e)
            total = torch.ops.equifast.orbit_average(rows, None, part, [], [], padding_mode, True)
            grad_x[b:b_end] = total if e == 0 else grad_x[b:b_end] + total
        # If one of the two is asked for, oneDNN gives both.
        for total, part, needed in zip(sums, parts[1:], needs[1:], strict=True):
            if needed:
                total += part
    if needs[0] and not grad.numel():
        grad_x.zero_()
    return grad_x, *(s.to(weight.dtype) for s in sums)


def _backward_composed(grad, x, weight, table, stride, padding, dilation, padding_mode, needs):
    rows = torch.ops.equifast.orbit(x, None, table, [], [], padding_mode, False)
    options = ([weight.shape[0]], stride, padding, dilation, False, [0, 0], 1, needs)
    of_rows, *others = torch.ops.aten.convolution_backward(grad, rows, weight, *options)
    of_x = x.new_empty(0)
    if needs[0]:
        members = by_element(of_rows, order_of(table))
        of_x = torch.ops.equifast.orbit_average(members, None, table, [], [], padding_mode, True)
    return of_x, *(g if n else weight.new_empty(0) for g, n in zip(others, needs[1:], strict=True))


def _backward_fake(grad, x, weight, table, stride, padding, dilation, padding_mode, needs):
    return new_gradients(x, weight, needs)


register(
    "orbit_conv2d_backward",
    eager=_backward_eager,
    composed=_backward_composed,
    fake=_backward_fake,
    backward=no_double_backward("orbit_conv2d"),
    has_cpu_kernel=False,
    prefers_triton=lambda grad, x, weight, *rest: selection.prefers_triton(weight),
)
