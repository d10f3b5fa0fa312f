"""The base classes of every canonicalizer."""

from . import basecanonicalization
from .basecanonicalization import (
    BaseCanonicalization,
    ContinuousGroupCanonicalization,
    DiscreteGroupCanonicalization,
    IdentityCanonicalization,
)

__all__ = [
    "BaseCanonicalization",
    "ContinuousGroupCanonicalization",
    "DiscreteGroupCanonicalization",
    "IdentityCanonicalization",
    "basecanonicalization",
]
