"""What tests and dry runs change in Triton's interpreter, which emulates a GPU with NumPy on the CPU."""

from __future__ import annotations

import numpy as np
import torch


def patch() -> None:
    """Make the interpreter quicker, round as GPUs do, and sum in one order on every processor; for this process."""
    from triton.runtime import interpreter

    interpreter.InterpretedFunction.__call__ = _call(interpreter.InterpretedFunction.__call__)
    interpreter._convert_float = _convert_float(interpreter._convert_float)
    interpreter.InterpreterBuilder.create_dot = _create_dot


def _call(original):
    """Patch triton.language once for each kernel, not again for each call of a device function: most of the time."""

    def call(function, *args, **kwargs):
        ours = function.fn.__module__.startswith("equifast.")
        return function.rewrite()(*args, **kwargs) if ours else original(function, *args, **kwargs)

    return call


def _convert_float(original):
    """Round float32 to the nearest bfloat16, ties to even. The interpreter truncates the last 16 bits."""
    import triton.language as tl

    def convert(values, source, target, mode):
        if (source, target) == (tl.float32, tl.bfloat16):
            return torch.from_numpy(np.ascontiguousarray(values)).bfloat16().view(torch.int16).numpy().view(np.uint16)
        if (source, target) == (tl.bfloat16, tl.float32):
            return values.astype(np.uint32) << 16
        return original(values, source, target, mode)

    return convert


def _create_dot(builder, a, b, d, input_precision, max_num_imprecise_acc):
    """``d + a·b`` for a (M, K) and b (K, N), summed in the order of k.

    The interpreter calls BLAS, whose order of summation depends on the row, the shape and the processor. On a GPU it
    depends on none of them, and the bit-exact laws of the kernels rest on that.
    """
    from triton.runtime.interpreter import TensorHandle

    wide = d.data.dtype
    rows, columns = a.data.astype(wide), b.data.astype(wide)
    total = d.data.copy()
    for k in range(rows.shape[1]):
        total += rows[:, k, None] * columns[k]
    return TensorHandle(total, d.dtype.scalar)
