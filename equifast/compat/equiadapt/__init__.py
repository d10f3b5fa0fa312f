"""equiadapt's interface for canonicalizing images over a discrete group, on this package's kernels.

In code written for equiadapt, put ``equifast.compat.equiadapt`` where an import says ``equiadapt``: modules and classes
have the same paths, constructors, methods and ``state_dict``. Results equal equiadapt's within rounding, except where
equiadapt's are wrong. docs/equiadapt.md lists every deliberate difference, with its test, and what isn't provided.

equiadapt keeps the state of the last call on the module, in ``canonicalization_info_dict``, and so do these classes.
Use `equifast.nn.Canonicalizer` where two batches may be under way at once.
"""

from .common import (
    BaseCanonicalization,
    ContinuousGroupCanonicalization,
    DiscreteGroupCanonicalization,
    IdentityCanonicalization,
    basecanonicalization,
)
from .images import (
    ContinuousGroupImageCanonicalization,
    ConvNetwork,
    CustomEquivariantNetwork,
    DiscreteGroupImageCanonicalization,
    GroupEquivariantImageCanonicalization,
    OptimizedGroupEquivariantImageCanonicalization,
    OptimizedSteerableImageCanonicalization,
    ResNet18Network,
    RotationEquivariantConv,
    RotationEquivariantConvLift,
    RotoReflectionEquivariantConv,
    RotoReflectionEquivariantConvLift,
    SteerableImageCanonicalization,
    WideResNet50Network,
    WideResNet101Network,
    canonicalization_networks,
    custom_equivariant_networks,
    custom_group_equivariant_layers,
    custom_nonequivariant_networks,
    flip_boxes,
    flip_masks,
    get_action_on_image_features,
    roll_by_gather,
    rotate_boxes,
    rotate_masks,
    rotate_points,
)

__all__ = [
    "BaseCanonicalization",
    "ContinuousGroupCanonicalization",
    "ContinuousGroupImageCanonicalization",
    "ConvNetwork",
    "CustomEquivariantNetwork",
    "DiscreteGroupCanonicalization",
    "DiscreteGroupImageCanonicalization",
    "GroupEquivariantImageCanonicalization",
    "IdentityCanonicalization",
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
    "basecanonicalization",
    "custom_equivariant_networks",
    "custom_group_equivariant_layers",
    "custom_nonequivariant_networks",
    "flip_boxes",
    "flip_masks",
    "get_action_on_image_features",
    "roll_by_gather",
    "rotate_boxes",
    "rotate_masks",
    "rotate_points",
]


def __getattr__(name: str):
    """The networks that need e2cnn, which is imported when one of them is asked for."""
    if name in canonicalization_networks.NEED_E2CNN:
        return getattr(canonicalization_networks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
