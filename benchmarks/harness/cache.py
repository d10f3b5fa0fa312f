"""Cold and warm: what of its inputs a timed call finds in the L2 cache of a GPU.

*Warm*: each call has the inputs of the call before it, and its outputs go to the same memory. A GPU keeps up to 50 MB
and more of them in its L2, so such a loop measures the L2 where a batch fits into it.

*Cold*: copies of the inputs take turns, so many that their bytes pass through the L2 twice before one has its turn
again, and outputs are kept as long. So a call reads its inputs from memory, and what it writes displaces what others
wrote. Nothing but the calls is timed, and the same works in a CUDA graph. The alternative is to overwrite the L2 before
each call: then what a call writes may stay in the L2, and its way to memory isn't timed.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Thunk = Callable[[], Any]

#: Bytes that pass between two uses of a copy, as a multiple of the L2. What the L2 throws out first isn't documented.
PASSES = 2

#: Tensors of fewer bytes than this share of the largest one don't count: weights and ids, which are warm anywhere.
SMALL_SHARE = 1 / 64


def l2_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).L2_cache_size


def copies_needed(inputs: tuple, device: torch.device) -> int:
    """How many copies of the inputs have to take turns, even for a call that reads only one of the tensors."""
    sizes = [value.nbytes for value in inputs if isinstance(value, Tensor) and value.nbytes]
    if not sizes:
        return 1
    least = min(size for size in sizes if size >= SMALL_SHARE * max(sizes))
    return 1 + math.ceil(PASSES * l2_bytes(device) / least)


def copied(inputs: tuple, count: int) -> list[tuple]:
    """The inputs, and copies of them with the same strides: ``count`` in all."""

    def fresh() -> tuple:
        return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)

    return [inputs, *(fresh() for _ in range(count - 1))]


def in_turn(thunks: list[Thunk]) -> Thunk:
    """Calls them one after the other, and keeps the outputs of all but the latest until theirs is the turn again."""
    if len(thunks) == 1:
        return thunks[0]
    turns, kept = itertools.cycle(thunks), deque(maxlen=len(thunks) - 1)

    def thunk() -> None:
        kept.append(next(turns)())

    return thunk


def flush(device: torch.device) -> None:
    """Fill the L2 with something else. It is read: what is written would go to memory while others are timed."""
    _elsewhere(device).sum()


@functools.cache
def _elsewhere(device: torch.device) -> Tensor:
    return torch.zeros(PASSES * l2_bytes(device) // 4, dtype=torch.int32, device=device)
