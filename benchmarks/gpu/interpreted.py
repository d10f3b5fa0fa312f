"""What tests and dry runs change in Triton's interpreter, which emulates a GPU with NumPy on the CPU.

A kernel costs what its statements cost in Python, whatever the size of its tiles. So what is worked out anew for each
statement, and is the same each time, is worked out once here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types

import numpy as np
import torch


def patch() -> None:
    """Make the interpreter quicker, round as GPUs do, and sum in one order on every processor; for this process."""
    from triton.language import core
    from triton.language.semantic import TritonSemantic
    from triton.runtime import interpreter

    interpreter._patch_lang = _patched_once(interpreter._patch_lang)
    interpreter.InterpretedFunction.__call__ = lambda function, *args, **kwargs: function.rewrite()(*args, **kwargs)
    core.tensor.__init__, core.block_type.__init__ = _new_tensor, _new_block_type
    core.dtype.__eq__ = _equal(core.dtype.__eq__)
    TritonSemantic.broadcast_impl_value = _broadcast
    TritonSemantic.computation_type_impl = _computation_type(TritonSemantic.computation_type_impl)
    interpreter._get_np_dtype = _by_name(interpreter._get_np_dtype)
    interpreter._convert_float = _convert_float(interpreter._convert_float)
    builder = interpreter.interpreter_builder
    # Each sum and product of integers would be computed again in 64 bits, for a check that needs the option `debug`.
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    interpreter.InterpreterBuilder.create_dot = _create_dot
    interpreter.InterpreterBuilder.create_erf = _create_erf


def _patched_once(original):
    """Patch triton.language now and for good, not again for each launch and each call of a device function."""
    import triton.language as tl

    original(types.FunctionType(_patched_once.__code__, {"tl": tl, "core": tl.core}))
    nothing = types.SimpleNamespace(restore=lambda: None)
    return lambda function: nothing


def _new_tensor(tensor, handle, dtype) -> None:
    """``triton.language.tensor.__init__``, with descriptions of shapes that are made once."""
    tensor.handle, tensor.type, tensor.dtype = handle, dtype, dtype.scalar
    tensor.shape, tensor.numel = _constants(tuple(dtype.shape) if dtype.is_block() else ())


@functools.cache
def _constants(sizes: tuple[int, ...]):
    """A shape and its number of elements, as a kernel sees them."""
    from triton.language import core

    return core.tuple([core.constexpr(size) for size in sizes]), core.constexpr(math.prod(sizes))


def _new_block_type(block, element, shape) -> None:
    """``triton.language.block_type.__init__``, likewise."""
    block.element_ty = element
    block.shape, block.numel, name = _sizes(tuple([getattr(size, "value", size) for size in shape]))
    block.name = f"<{name}, {element}>"


@functools.cache
def _sizes(sizes: tuple[int, ...]):
    """A shape, its number of elements and its name, as types have them."""
    from triton._utils import validate_block_shape
    from triton.language import core

    shape = core.tuple(sizes)
    return shape, validate_block_shape(shape), str(shape)


def _broadcast(semantic, one, other):
    """``TritonSemantic.broadcast_impl_value``: both as tensors of one shape. NumPy repeats values without a copy."""
    from triton.language import core
    from triton.runtime.interpreter import TensorHandle

    shapes = [tuple(t.type.shape) if t.type.is_block() else () for t in (one, other)]
    if shapes[0] == shapes[1]:
        return one, other
    shape = _common(*shapes)

    def repeated(t, own):
        if own == shape:
            return t
        handle = TensorHandle(np.broadcast_to(t.handle.data, shape), t.handle.dtype.scalar)
        return core.tensor(handle, core.block_type(t.dtype, shape))

    return repeated(one, shapes[0]), repeated(other, shapes[1])


_common = functools.cache(np.broadcast_shapes)


def _computation_type(original):
    """Look the type in which two operands meet up by the names of their types."""
    known: dict[tuple, object] = {}

    def computation_type(semantic, one, one_is_scalar, other, other_is_scalar, div_or_mod):
        key = one.name, one_is_scalar, other.name, other_is_scalar, div_or_mod
        if key not in known:
            known[key] = original(semantic, one, one_is_scalar, other, other_is_scalar, div_or_mod)
        return known[key]

    return computation_type


def _equal(original):
    """Compare types by identity first: there is one object of each scalar type."""
    return lambda one, other: one is other or original(one, other)


def _by_name(original):
    """Look the NumPy dtype of a type up by the type's name."""
    known: dict[str, np.dtype] = {}

    def dtype_of(dtype) -> np.dtype:
        scalar = dtype.scalar
        if scalar.name not in known:
            known[scalar.name] = original(scalar)
        return known[scalar.name]

    return dtype_of


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


def _create_erf(builder, x):
    """The error function by torch, for all values at once; the interpreter calls Python's for each."""
    from triton.runtime.interpreter import TensorHandle

    values = torch.from_numpy(np.array(x.data, dtype=np.float64)).erf().numpy()
    return TensorHandle(values.astype(x.data.dtype), x.dtype.scalar)


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
