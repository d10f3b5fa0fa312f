"""What the tests of modes share: modules of every kind, a loss of their forms, and which modules a slow mode gets."""

import pytest
import torch
from torch import nn

import equifast
from equifast import canonicalize
from equifast.nn import Canonicalizer, ConvNetwork, EquivariantNetwork, TinyCanonicalizer

from ..cases import rand


class Direct(nn.Module):
    """The direct method as a module."""

    def __init__(self, group):
        super().__init__()
        self.group, self.network = group, EquivariantNetwork((3, 16, 16), group, 4, 3, 2)

    def forward(self, x):
        return canonicalize(x, group=self.group, activations=self.network(x))


def network():
    made = ConvNetwork((3, 16, 16), 4, 3, 2, 8)
    made.final_fc[1] = nn.Identity()  # without dropout, training is as repeatable as evaluation
    return made


def learned(group, **options):
    return lambda: Canonicalizer(network(), group, **options)


#: Modules of each kind of estimator, score, padding and group, with the dtype that they run in.
MODULES = {
    "straight-through": (learned("C4"), torch.float32),
    "soft": (learned("D3", estimator="soft", padding_mode="zeros"), torch.float64),
    "angle": (learned("C8", estimator="angle"), torch.float64),
    "gumbel": (learned("C3", estimator="gumbel", learn_reference=False), torch.float64),
    "none": (learned("C6", estimator="none", score=equifast.scores.margin), torch.float64),
    "resized": (lambda: Canonicalizer(network(), "D4", crop=0.9, resize=16), torch.float64),
    "search": (learned("C4", refine=2, gate=0.01), torch.float64),
    "tiny": (lambda: TinyCanonicalizer(3, "D4", channels=8, kernel_size=3), torch.float64),
    "direct": (lambda: Direct("C8"), torch.float64),
}


def build(name):
    """The module in eval mode, and images for it."""
    make, dtype = MODULES[name]
    torch.manual_seed(0)
    return make().to(dtype).eval(), rand(3, 3, 20 if name == "resized" else 16, 20 if name == "resized" else 16).to(
        dtype
    )


#: Modules that differ in what compilers see of them, for modes that take seconds.
FEW = {
    "compiled": ("straight-through", "gumbel", "none", "direct"),
    "exported strictly": ("straight-through", "direct"),
    "exported, saved, loaded": ("straight-through", "none", "resized", "direct"),
    "decomposed": ("soft", "tiny"),
    "gradients compiled": ("straight-through", "soft", "angle", "tiny", "direct"),
    "gradients compiled torch.func.grad": ("straight-through", "direct"),
}


def cases(modes, prefix=""):
    """Pairs of a module and a mode."""
    pairs = [(name, mode) for mode in modes for name in FEW.get(prefix + mode, MODULES)]
    return pytest.mark.parametrize(("name", "mode"), pairs, ids=map(" ".join, pairs))


#: The gradient of each pixel of an image of up to 20 rows and columns.
UPSTREAM = rand(3, 20, 20, dtype=torch.float64, seed=3)


def loss_of(form):
    height, width = form.image.shape[2:]
    return (
        (form.image * UPSTREAM[:, :height, :width].to(form.image.dtype)).sum()
        + form.prior_loss(beta=2.0)
        + form.probabilities.square().sum()
    )
