"""The canonicalizers of images."""

from . import continuous_group, discrete_group
from .continuous_group import (
    ContinuousGroupImageCanonicalization,
    OptimizedSteerableImageCanonicalization,
    SteerableImageCanonicalization,
)
from .discrete_group import (
    DiscreteGroupImageCanonicalization,
    GroupEquivariantImageCanonicalization,
    OptimizedGroupEquivariantImageCanonicalization,
)

__all__ = [
    "ContinuousGroupImageCanonicalization",
    "DiscreteGroupImageCanonicalization",
    "GroupEquivariantImageCanonicalization",
    "OptimizedGroupEquivariantImageCanonicalization",
    "OptimizedSteerableImageCanonicalization",
    "SteerableImageCanonicalization",
    "continuous_group",
    "discrete_group",
]
