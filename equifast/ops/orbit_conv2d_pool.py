"""`orbit_conv2d_pool`: the mean over pixels of an activated convolution of the orbit; neither is ever in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry import order_of
from ..layers import ACTIVATION_GRADIENTS
from ..transform_set import Transforms
from ._layers import in_one_order, layer_options, new_gradients, new_output
from ._rows import by_element
from .registry import no_double_backward, register

#: Bytes of the convolution's output at a time.
CHUNK_BYTES = 7 << 20


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
    """Features of every g_e⁻¹·x: (B, C, H, W) → (E·B, C_out), the mean over pixels of an activated convolution.

    Equivalent to: ``relu(equifast.orbit_conv2d(x, weight, bias, …)).mean((2, 3))``, but nothing as large as the
    convolution's output is ever in memory. Backward keeps the arguments and convolves again, a few images at a time.

    Args:
        x, weight, bias, group, stride, padding, dilation, padding_mode: as `orbit_conv2d`.
        activation: ``"none"``, ``"relu"``, ``"gelu"`` or ``"silu"``.

    Raises:
        ValueError, TypeError: naming the argument that is off.
    """
    options = layer_options(x, weight, bias, group, stride, padding, dilation, padding_mode, activation)
    return torch.ops.equifast.orbit_conv2d_pool(x, weight, bias, *options)


def _chunks(x: Tensor, weight: Tensor, table, stride, padding, dilation) -> range:
    """The first images of chunks whose convolution has CHUNK_BYTES at most."""
    image = new_output(x[:1].to("meta"), weight.to("meta"), table, stride, padding, dilation)
    return range(0, x.shape[0], max(CHUNK_BYTES // max(image.numel() * image.element_size(), 1), 1))


def _eager(x, weight, bias, table, stride, padding, dilation, padding_mode, activation):
    options = (stride, padding, dilation, padding_mode, activation)
    out = _fake(x, weight, bias, table, *options)
    members = by_element(out, order_of(table))
    chunks = _chunks(x, weight, table, stride, padding, dilation)
    for b in chunks:
        images = x[b : b + chunks.step]
        y = torch.ops.equifast.orbit_conv2d(images, weight, bias, table, *options)
        members[:, b : b + chunks.step] = by_element(y.mean((2, 3)), members.shape[0])
    return out


def _composed(*args):
    return torch.ops.equifast.orbit_conv2d(*args).mean((2, 3))


def _fake(x, weight, bias, table, stride, padding, dilation, padding_mode, activation):
    return x.new_empty((order_of(table) * x.shape[0], weight.shape[0]))


def _setup_context(ctx, inputs, output):
    x, weight, bias, *ctx.options = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx, grad):
    needs = list(ctx.needs_input_grad[:3])
    grads = torch.ops.equifast.orbit_conv2d_pool_backward(grad, *ctx.saved_tensors, *ctx.options, needs)
    return *(g if n else None for g, n in zip(grads, needs, strict=True)), *[None] * 6


register(
    "orbit_conv2d_pool",
    eager=_eager,
    composed=_composed,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    has_cpu_kernel=False,  # on a CPU, orbit_conv2d a few images at a time
    autocast=lambda dtype: dtype,
)


@in_one_order
def _backward_eager(
    grad, x, weight, bias, table, stride, padding, dilation, padding_mode, activation, needs
):  # fmt: skip
    options = (table, stride, padding, dilation, padding_mode)
    grads = new_gradients(x, weight, needs)
    wide = torch.promote_types(weight.dtype, torch.float32)
    sums = [torch.zeros(g.shape, dtype=wide, device=g.device) for g in grads[1:]]
    members = by_element(grad, order_of(table))
    chunks = _chunks(x, weight, table, stride, padding, dilation)
    for b in chunks:
        images = x[b : b + chunks.step]
        z = torch.ops.equifast.orbit_conv2d(images, weight, bias, *options, "none")
        rows = members[:, b : b + chunks.step].flatten(0, 1) / z.shape[2:].numel()
        upstream = ACTIVATION_GRADIENTS[activation](torch.empty_like(z).copy_(rows[:, :, None, None]), z)
        # The bias has its own sum, in a wide type: relu passes pixels of one sign and size, whose plain sum in a narrow
        # type would always round the same way.
        parts = torch.ops.equifast.orbit_conv2d_backward(upstream, images, weight, *options, [*needs[:2], False])
        if needs[0]:
            grads[0][b : b + chunks.step] = parts[0]
        if needs[1]:
            sums[0] += parts[1]
        if needs[2]:
            sums[1] += upstream.sum((0, 2, 3), dtype=wide)
    return grads[0], *(s.to(weight.dtype) for s in sums)


def _backward_composed(
    grad, x, weight, bias, table, stride, padding, dilation, padding_mode, activation, needs
):  # fmt: skip
    options = (table, stride, padding, dilation, padding_mode)
    z = torch.ops.equifast.orbit_conv2d(x, weight, bias, *options, "none")
    of_pixels = (grad / z.shape[2:].numel())[:, :, None, None].expand(z.shape)
    upstream = ACTIVATION_GRADIENTS[activation](of_pixels, z)
    of_x, of_weight, _ = torch.ops.equifast.orbit_conv2d_backward(upstream, x, weight, *options, [*needs[:2], False])
    return of_x, of_weight, upstream.sum((0, 2, 3)) if needs[2] else weight.new_empty(0)


def _backward_fake(
    grad, x, weight, bias, table, stride, padding, dilation, padding_mode, activation, needs
):  # fmt: skip
    return new_gradients(x, weight, needs)


register(
    "orbit_conv2d_pool_backward",
    eager=_backward_eager,
    composed=_backward_composed,
    fake=_backward_fake,
    backward=no_double_backward("orbit_conv2d_pool"),
    has_cpu_kernel=False,
)
