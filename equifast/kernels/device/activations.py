"""The activations that a convolution applies to its output, and their derivatives."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activated(z, ACTIVATION: tl.constexpr):
    """``activation(z)``, value by value. "none" returns z."""
    if ACTIVATION == "relu":
        z = tl.where(z < 0, 0.0, z)
    elif ACTIVATION == "gelu":
        z = 0.5 * z * (1 + tl.erf(z * 0.70710678118654752))
    elif ACTIVATION == "silu":
        z = z / (1 + tl.exp(-z))
    return z


@triton.jit
def activation_slope(z, ACTIVATION: tl.constexpr):
    """The derivative of `activated` at z, value by value."""
    if ACTIVATION == "relu":
        slope = tl.where(z <= 0, 0.0, 1.0).to(z.dtype)
    elif ACTIVATION == "gelu":
        slope = 0.5 * (1 + tl.erf(z * 0.70710678118654752)) + z * tl.exp(-0.5 * z * z) * 0.39894228040143268
    elif ACTIVATION == "silu":
        s = 1 / (1 + tl.exp(-z))
        slope = s * (1 + z * (1 - s))
    else:
        slope = tl.full(z.shape, 1.0, z.dtype)
    return slope
