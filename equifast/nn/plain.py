"""What is asked of modules before something else computes what they would: whether that leaves nothing out."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.nn.modules.module import _has_any_global_hook

from ..layers import ACTIVATIONS
from ..lazy_orbit import in_vmap, is_transformed

#: What kernels call each activation module. `activation_name` adds the two kinds of GELU.
NAMES = {type(None): "none", nn.Identity: "none", nn.ReLU: "relu", nn.SiLU: "silu"}


def needs_grad(module: nn.Module, x: Tensor) -> bool:
    """Whether a graph has to be recorded for ``module(x)``."""
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in module.parameters()))


def activation_name(module: nn.Module | None, known: Container[str] = ACTIVATIONS) -> str | None:
    """What kernels call an activation module: "none" if there is no module, None if it is not one of the ``known``."""
    name = NAMES.get(type(module))
    if type(module) is nn.GELU:
        name = "gelu" if module.approximate == "none" else "gelu_tanh"
    return name if name in known else None


def is_watched() -> bool:
    """Whether PyTorch has to see its own operators: a compiler, a trace, `torch.func`, derivatives in forward mode."""
    return torch.compiler.is_compiling() or is_transformed()


def channels_last(x: Tensor) -> Tensor:
    """The same images in channels_last, which convolutions of many channels prefer; x itself within `torch.func.vmap`,
    which knows no memory formats.
    """
    if in_vmap():
        return x
    # Images of one channel are contiguous in both formats. Only a copy has the strides that PyTorch tells them by.
    is_ambiguous = x.shape[1] == 1 and suggest_memory_format(x) != torch.channels_last
    copy = x.clone if is_ambiguous else x.contiguous
    return copy(memory_format=torch.channels_last)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module does more than the forward of its class, which others would leave out."""
    forward = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    return bool(forward or module._backward_hooks or module._backward_pre_hooks) or _has_any_global_hook()
