"""Canonicalization of images over discrete groups."""

from . import canonicalization, canonicalization_networks, utils
from .canonicalization import (
    ContinuousGroupImageCanonicalization,
    DiscreteGroupImageCanonicalization,
    GroupEquivariantImageCanonicalization,
    OptimizedGroupEquivariantImageCanonicalization,
    OptimizedSteerableImageCanonicalization,
    SteerableImageCanonicalization,
    continuous_group,
    discrete_group,
)
from .canonicalization_networks import (
    ConvNetwork,
    CustomEquivariantNetwork,
    ResNet18Network,
    RotationEquivariantConv,
    RotationEquivariantConvLift,
    RotoReflectionEquivariantConv,
    RotoReflectionEquivariantConvLift,
    WideResNet50Network,
    WideResNet101Network,
    custom_equivariant_networks,
    custom_group_equivariant_layers,
    custom_nonequivariant_networks,
)
from .utils import (
    flip_boxes,
    flip_masks,
    get_action_on_image_features,
    roll_by_gather,
    rotate_boxes,
    rotate_masks,
    rotate_points,
)

__all__ = [
    "ContinuousGroupImageCanonicalization",
    "ConvNetwork",
    "CustomEquivariantNetwork",
    "DiscreteGroupImageCanonicalization",
    "GroupEquivariantImageCanonicalization",
    "OptimizedGroupEquivariantImageCanonicalization",
    "OptimizedSteerableImageCanonicalization",
    "ResNet18Network",
    "RotationEquivariantConv",
    "RotationEquivariantConvLift",
    "RotoReflectionEquivariantConv",
    "RotoReflectionEquivariantConvLift",
    "SteerableImageCanonicalization",
    "WideResNet101Network",
    "WideResNet50Network",
    "canonicalization",
    "canonicalization_networks",
    "continuous_group",
    "custom_equivariant_networks",
    "custom_group_equivariant_layers",
    "custom_nonequivariant_networks",
    "discrete_group",
    "flip_boxes",
    "flip_masks",
    "get_action_on_image_features",
    "roll_by_gather",
    "rotate_boxes",
    "rotate_masks",
    "rotate_points",
    "utils",
]


def __getattr__(name: str):
    """The networks that need e2cnn, which is imported when one of them is asked for."""
    if name in canonicalization_networks.NEED_E2CNN:
        return getattr(canonicalization_networks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
