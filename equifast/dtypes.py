"""Which dtypes the ops take, and which they sum in."""

from __future__ import annotations

import torch

#: The dtypes of images, features and vectors.
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower: no kernel sums in half precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32
