"""How the choice gets a gradient from the images in plain PyTorch: both estimators that a training step is timed with.

Each is a function ``(x, probabilities, element, setting) -> image``: the chosen member of each image, exactly, whose
gradient to the probabilities (B, E) is the estimator's.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from . import eager
from .settings import Setting


def straight_through(x: Tensor, probabilities: Tensor, element: Tensor, setting: Setting) -> Tensor:
    """∂L/∂p_e = ⟨∂L/∂image, g_e⁻¹x⟩ for all e, in the quicker of two ways."""
    return StraightThrough.apply(x, probabilities, element, setting.group, keeps_orbit(setting, x.device))


def angle(x: Tensor, probabilities: Tensor, element: Tensor, setting: Setting) -> Tensor:
    """Through one angle θ = Σ_e p_e·θ_e and one reflection flag a sample, as equiadapt does it."""
    n = int(setting.group[1:])
    ids = torch.arange(setting.order, device=x.device)
    choice = torch.nn.functional.one_hot(element, setting.order) + probabilities - probabilities.detach()
    theta = (choice * (ids % n)).sum(1) * (2 * math.pi / n)
    cos, sin = theta.cos(), theta.sin()
    image = eager.resample(x, torch.stack((cos, sin, -sin, cos), 1).unflatten(1, (2, 2)))
    if n == setting.order:
        return image
    flag = (choice * (ids >= n)).sum(1)[:, None, None, None]
    return (1 - flag) * image + flag * image.flip(-1)


ESTIMATORS = {"straight_through": straight_through, "angle": angle}


class StraightThrough(torch.autograd.Function):
    """``keep``: whether the whole orbit stays in memory for the backward pass, or is made again there."""

    @staticmethod
    def forward(ctx, x: Tensor, probabilities: Tensor, element: Tensor, group: str, keep: bool) -> Tensor:
        ctx.group, ctx.keep = group, keep
        if not keep:
            ctx.save_for_backward(x)
            return eager.act_by_element(x, element, group)
        members = eager.orbit(x, group).unflatten(0, (-1, x.shape[0]))
        ctx.save_for_backward(members)
        return members[element, torch.arange(x.shape[0], device=x.device)]

    @staticmethod
    def backward(ctx, grad: Tensor):
        (saved,) = ctx.saved_tensors
        if ctx.keep:
            return None, torch.einsum("ebchw,bchw->be", saved, grad), None, None, None
        return None, inner_products(saved, grad, ctx.group), None, None, None


def note(estimator: str, setting: Setting, device: torch.device) -> str:
    """Which way an estimator takes for the images of a setting."""
    if estimator == "angle":
        return "a grid per sample"
    return "orbit kept" if keeps_orbit(setting, device) else "orbit made again"


@functools.cache
def keeps_orbit(setting: Setting, device: torch.device) -> bool:
    """Whether that is quicker for the images of a setting."""
    generator = torch.Generator().manual_seed(0)
    x, grad = setting.images(generator, device), setting.images(generator, device)
    element = torch.arange(setting.batch, device=device) % setting.order
    probabilities = torch.zeros(setting.batch, setting.order, device=device, requires_grad=True)

    def both(keep: bool):
        def way(_: Tensor) -> None:
            with torch.inference_mode(False), torch.enable_grad():
                image = StraightThrough.apply(x, probabilities, element, setting.group, keep)
                torch.autograd.grad(image, probabilities, grad)

        return way

    return eager.quickest({"kept": both(True), "made again": both(False)}, x)[0] == "kept"


def inner_products(x: Tensor, grad: Tensor, group: str) -> Tensor:
    """⟨grad, g_e⁻¹x⟩, (B, E), with one interpolation for each base angle."""
    table = eager.table(group)
    bases = {
        base: x if base == eager.IDENTITY else eager.resample(x, eager.matrix(base, x.device)) for _, base in table
    }
    products = [torch.einsum("bchw,bchw->b", eager.permute(bases[base], code), grad) for code, base in table]
    return torch.stack(products, 1)
