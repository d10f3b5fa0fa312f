"""The networks that choose an orientation."""

from importlib import import_module

from . import custom_equivariant_networks, custom_group_equivariant_layers, custom_nonequivariant_networks
from .conversion import converted
from .custom_equivariant_networks import CustomEquivariantNetwork
from .custom_group_equivariant_layers import (
    RotationEquivariantConv,
    RotationEquivariantConvLift,
    RotoReflectionEquivariantConv,
    RotoReflectionEquivariantConvLift,
)
from .custom_nonequivariant_networks import (
    ConvNetwork,
    ResNet18Network,
    WideResNet50Network,
    WideResNet101Network,
)

#: Names of `escnn_networks`, which imports e2cnn.
NEED_E2CNN = (
    "ESCNNEquivariantNetwork",
    "ESCNNSteerableNetwork",
    "ESCNNWRNEquivariantNetwork",
    "ESCNNWideBasic",
    "ESCNNWideBottleneck",
)

__all__ = [
    "ConvNetwork",
    "CustomEquivariantNetwork",
    "ResNet18Network",
    "RotationEquivariantConv",
    "RotationEquivariantConvLift",
    "RotoReflectionEquivariantConv",
    "RotoReflectionEquivariantConvLift",
    "WideResNet101Network",
    "WideResNet50Network",
    "converted",
    "custom_equivariant_networks",
    "custom_group_equivariant_layers",
    "custom_nonequivariant_networks",
]


def __getattr__(name: str):
    """The networks that need e2cnn, which is imported when one of them is asked for."""
    if name in NEED_E2CNN:
        return getattr(import_module(".escnn_networks", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
