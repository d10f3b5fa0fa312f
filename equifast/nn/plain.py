"""What is asked of modules before something else computes what they would: whether that leaves nothing out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

#: What kernels call each activation module. `activation_name` adds GELU, of whose two kinds they know one.
NAMES = {type(None): "none", nn.Identity: "none", nn.ReLU: "relu", nn.SiLU: "silu"}


def needs_grad(module: nn.Module, x: Tensor) -> bool:
    """Whether a graph has to be recorded for ``module(x)``."""
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in module.parameters()))


def activation_name(module: nn.Module | None) -> str | None:
    """What kernels call an activation module: "none" if there is no module, None if they don't know the activation."""
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else None
    return NAMES.get(type(module))


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module does more than the forward of its class, which others would leave out."""
    forward = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    return bool(forward or module._backward_hooks or module._backward_pre_hooks) or _has_any_global_hook()
