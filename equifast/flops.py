"""FLOPs of the ops: importing this module tells them to `torch.utils.flop_counter`, which counts 0 without it.

An op counts as its decomposition does: matrix products and convolutions, those of its backward pass too. Interpolation
counts as nothing, as it does in PyTorch. The package itself doesn't import this module, since torch's counter imports
Triton.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from . import ops
from .schemas import SCHEMAS


def _formula(run: Callable) -> Callable[..., int]:
    def count(*args, out_val=None) -> int:
        args = tree_map_only(Tensor, lambda t: t.to("meta"), args)
        with FlopCounterMode(display=False) as counter:
            run(*args)
        return counter.get_total_flops()

    return count


_DECOMPOSITIONS = ops.decompositions()
for _name in SCHEMAS:
    _op = getattr(torch.ops.equifast, _name)
    register_flop_formula(_op, get_raw=True)(_formula(_DECOMPOSITIONS[_op.default]))
