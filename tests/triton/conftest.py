"""Kernels in Triton's interpreter, which must be chosen before Triton is imported: so they have a process of their own,
``TRITON_INTERPRET=1 EQUIFAST_BACKEND=triton pytest tests/triton`` (`make test` runs it), and are unseen in any other.
"""

import numpy as np
import pytest
import torch

from equifast import backends

collect_ignore_glob = [] if backends.INTERPRETING else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def patched_once():
    """The interpreter patches all of triton.language again for each call of a device function: most of its time."""
    from triton.runtime import interpreter

    first = interpreter.InterpretedFunction.__call__

    def call(function, *args, **kwargs):
        ours = function.fn.__module__.startswith("equifast.")
        return function.rewrite()(*args, **kwargs) if ours else first(function, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        yield


@pytest.fixture(autouse=True, scope="session")
def rounding_to_bfloat16():
    """As GPUs do it, to nearest even: the interpreter cuts the last 16 bits off."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounding(values, source, target, mode):
        if (source, target) == (tl.float32, tl.bfloat16):
            return torch.from_numpy(np.ascontiguousarray(values)).bfloat16().view(torch.int16).numpy().view(np.uint16)
        if (source, target) == (tl.bfloat16, tl.float32):
            return values.astype(np.uint32) << 16
        return convert(values, source, target, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_convert_float", rounding)
        yield
