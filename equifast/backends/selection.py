"""Which GPU backend serves a call where CUDA C++ and Triton both can: Triton for wide layers, CUDA C++ for all else.

With one backend forced or usable, nothing is selected (`equifast.backends`).
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Layers with more output channels than this go to Triton, if they multiply on matrix units. The number is not
#: measured. The reason for it: Triton has the matrix instructions of Hopper, and our CUDA C++ has not.
WIDE_LAYER = 64

#: The rule, for people.
RULE = f"cuda, but triton for layers of more than {WIDE_LAYER} output channels on matrix units"


def prefers_triton(weight: Tensor) -> bool:
    """Whether Triton serves a convolution with this weight (C_out, C, kH, kW)."""
    return weight.shape[0] > WIDE_LAYER and (weight.dtype.itemsize == 2 or allows_tf32(weight.dtype))


def allows_tf32(dtype: torch.dtype) -> bool:
    """Whether PyTorch may convolve tensors of this dtype in TF32."""
    precision = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]  # not in torch's stubs
    return dtype == torch.float32 and precision == "tf32"
