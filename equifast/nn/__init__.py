"""Modules: the canonicalizer, the network it is made with by default, and the fusing of any other."""

from .canonicalizer import Canonicalizer
from .conv_network import ConvNetwork
from .fusion import FusedNetwork, fuse_first_layer
from .orbit_conv2d import OrbitConv2d
from .tiny_canonicalizer import PooledOrbitConv2d, TinyCanonicalizer
from .tracing import FusionError

__all__ = [
    "Canonicalizer",
    "ConvNetwork",
    "FusedNetwork",
    "FusionError",
    "OrbitConv2d",
    "PooledOrbitConv2d",
    "TinyCanonicalizer",
    "fuse_first_layer",
]
