"""Modules: the canonicalizer, networks made for it, and a wrapper that runs any network on an orbit."""

from .canonicalizer import Canonicalizer
from .conv_network import ConvNetwork
from .crop_resize import CropResize
from .equivariant_network import EquivariantNetwork
from .fusion import FusedNetwork, fuse_first_layer
from .group_conv2d import GroupBatchNorm, GroupConv2d, LiftConv2d, PooledGroupConv2d
from .orbit_conv2d import OrbitConv2d
from .orbit_conv2d_pool import PooledOrbitConv2d
from .symmetrized import Symmetrized, symmetrize
from .tiny_canonicalizer import TinyCanonicalizer

__all__ = [
    "Canonicalizer",
    "ConvNetwork",
    "CropResize",
    "EquivariantNetwork",
    "FusedNetwork",
    "GroupBatchNorm",
    "GroupConv2d",
    "LiftConv2d",
    "OrbitConv2d",
    "PooledGroupConv2d",
    "PooledOrbitConv2d",
    "Symmetrized",
    "TinyCanonicalizer",
    "fuse_first_layer",
    "symmetrize",
]
