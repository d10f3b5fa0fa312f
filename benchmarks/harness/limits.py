"""What nobody can beat: a copy of as many bytes, or a matrix product of as many operations.

On a GPU the limit is the quickest of several copies, cold and warm each by itself; all have memory of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equifast import backends

from .cache import Thunk
from .measure import Bind, Contender, direct
from .timings import LIMIT, PRODUCT


def by_kernel(source: Tensor) -> Tensor:
    from .copy_kernel import copy

    return copy(source)


#: Ways to copy a contiguous tensor of float32 to new memory.
COPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "clone": torch.clone,
    "x + 0": lambda source: source + 0,
    "copy kernel": by_kernel,
}


def copies(moved: int, device: torch.device, plain: Callable[..., Any], name: str = "") -> list[Contender]:
    """Contenders of which `Timings.settle` makes the limit: copies that move ``moved`` bytes, half of them read.

    On a CPU there is one, ``plain``, a function of the inputs. On a GPU it competes with `COPIES` if it has a name.
    """
    binds: dict[str, Bind] = {}
    if device.type != "cpu" or backends.INTERPRETING:
        binds = {way: partial(_bind, copy, moved, device) for way, copy in COPIES.items()}
    if name or not binds:
        binds[name or "copy"] = direct(plain)
    return [Contender(f"{LIMIT}: {way}", lambda bind=bind: bind, checked=False) for way, bind in binds.items()]


def _bind(copy: Callable[[Tensor], Tensor], moved: int, device: torch.device, *inputs: Any) -> Thunk:
    """Each copy of the inputs has a source of its own, so that the limit is as cold as what it limits."""
    source = torch.rand(max(moved // 8, 1), device=device)

    def thunk() -> Tensor:
        with torch.inference_mode():
            return copy(source)

    return thunk


def nothing(function: Callable[..., Any]) -> Contender:
    """A limit that is no copy."""
    return Contender(LIMIT, lambda: direct(function), checked=False)


def product(flops: float, device: torch.device, dtype: torch.dtype) -> Contender:
    return Contender(PRODUCT, lambda: direct(matmul(flops, device, dtype)), checked=False)


def matmul(flops: float, device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor]:
    """A square matrix product of that many operations."""
    n = max(round((flops / 2) ** (1 / 3)), 1)
    a, b = torch.rand(2, n, n, device=device).to(dtype)
    if device.type != "cuda" or dtype != torch.float32 or not torch.backends.cudnn.allow_tf32:
        return lambda *_: a @ b

    def multiply(*_: Tensor) -> Tensor:
        """As PyTorch convolves by default, though it does not multiply so."""
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return a @ b
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return multiply
