"""`fuse_first_layer`: a network on the orbit of its input, as a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .. import checks, lazy_orbit
from ..orbit_vectors import orbit_maker
from ..transform_set import Transforms, as_transforms


class FusedNetwork(nn.Module):
    """``network(orbit(x))`` as a module, whose first convolution makes the orbit: (B, C, H, W) → rows e·B + b.

    ``forward`` takes another group in place of its own: with C1 the rows are the images themselves.

    The only child is ``network``, which is not modified and may be edited or replaced at any time. If something other
    than a convolution reads the orbit, the whole orbit is made, and the results are the same.
    """

    def __init__(self, network: Callable[[Tensor], Any], group: Transforms | str, padding_mode: str = "border") -> None:
        super().__init__()
        checks.padding_mode(padding_mode)
        self.network = network
        self.training = getattr(network, "training", True)
        self.orbit_group = as_transforms(group)
        self.padding_mode = padding_mode

    def forward(self, x: Tensor, group: Transforms | None = None) -> Any:
        checks.images("x", x)
        return lazy_orbit.run(self.network, x, group or self.orbit_group, self.padding_mode)

    def extra_repr(self) -> str:
        return f"{self.orbit_group}, padding_mode={self.padding_mode}"


def fuse_first_layer(
    network: Callable[[Tensor], Any], group: Transforms | str, *, padding_mode: str = "border"
) -> FusedNetwork:
    """A module that equals ``network(orbit(x, group))`` but makes the orbit within the network's first convolution.

    `equifast.canonicalize` and `nn.Canonicalizer` do this with every network that they are given. This function is for
    networks that run on orbits elsewhere.

    Equivalent to: ``lambda x: network(equifast.orbit(x, group, padding_mode=padding_mode))``.

    Args:
        network: (N, C, h, w) → anything; any callable.
        group: such as ``"C4"``.
        padding_mode: "border" or "zeros", beyond the edge of an image.

    Raises:
        TypeError: if ``network`` can't be called. ValueError: if it makes an orbit already, or for an unknown option.
    """
    if not callable(network):
        raise TypeError(f"network: expected a callable, got {type(network).__name__}")
    if (maker := orbit_maker(network)) is not None:
        raise ValueError(f"network: makes the orbit of {maker.orbit_group} already")
    return FusedNetwork(network, group, padding_mode)
