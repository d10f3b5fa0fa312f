"""What torch.compile is told about functions of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable)


def assume_constant_result(function: Function) -> Function:
    """Let torch.compile call ``function`` while it traces, and take the result as a constant of the graph.

    `torch.compiler.assume_constant_result` sets the same attribute, but imports the whole compiler to do it, which
    would add 2 s to ``import equifast``.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch's mark, which no type declares
    return function


@assume_constant_result
def is_exporting() -> bool:
    """Whether `torch.export` traces this code.

    While torch 2.10 compiles, it answers `torch.compiler.is_exporting` with True. So that is asked outside of the code
    that is compiled.
    """
    return torch.compiler.is_exporting()
