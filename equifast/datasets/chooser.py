"""The network of the command line, and what it chooses for a batch of images."""

from __future__ import annotations

import importlib
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..canonical_form import CanonicalForm
from ..canonicalize import canonicalize
from ..groups import Group, as_group
from ..nn import Canonicalizer, EquivariantNetwork


def load(name: str, option: str = "--network") -> Any:
    """A network by its name.

    ``module:attribute`` is a module of torch, or a function that returns one; modules are looked for in the current
    folder, too. A name that ends in ``.pt2`` is a program that `torch.export.save` has written. Any other name is that
    of a model of torchvision, with its default weights, which torchvision downloads.

    Raises:
        ValueError: naming the option, if there is nothing of this name.
    """
    if name.endswith(".pt2"):
        if not Path(name).is_file():
            raise ValueError(f"{option}: found no file {name}")
        return torch.export.load(name).module()
    module, colon, attribute = name.partition(":")
    if not colon:
        return _of_torchvision(name, option)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{option}: {error}") from error
    network = found if isinstance(found, nn.Module) else found()
    return network.eval() if isinstance(network, nn.Module) else network


def _of_torchvision(name: str, option: str) -> nn.Module:
    expected = f"{option}: expected module:attribute, a file that ends in .pt2, or a model of torchvision, got {name}"
    try:
        models = importlib.import_module("torchvision.models")
    except Exception as error:  # one that was built for another torch fails in ways of its own
        raise ValueError(f"{expected}, and torchvision can't be imported: {error}") from error
    if name not in models.list_models():
        raise ValueError(expected)
    return models.get_model(name, weights="DEFAULT").eval()


class Chooser:
    """Images (B, 3, h, w) → their `CanonicalForm`, without gradients.

    A `Canonicalizer` chooses as it was trained to, an `EquivariantNetwork` by its activations, any other network by a
    score of its logits, "confidence" unless another is named.

    Raises:
        ValueError: if a group or a score is missing, or contradicts the network.
    """

    def __init__(
        self,
        network: Any,
        group: str | None = None,
        score: str | None = None,
        *,
        device: torch.device | None = None,
        network_dtype: torch.dtype | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.network = network.to(self.device) if isinstance(network, nn.Module) else network
        self.network_dtype = network_dtype
        self.has_group = isinstance(network, (Canonicalizer, EquivariantNetwork))
        self.group: Group = _group(network if self.has_group else None, group)
        if self.has_group and (score is not None or network_dtype is not None):
            raise ValueError(f"--score, --network-dtype: expected none, since the network is a {_kind(network)}")
        self.score = None if self.has_group else score or "confidence"

    def __call__(self, images: Tensor) -> CanonicalForm:
        # Convolutions prefer channels_last, if not all networks do: ResNet-50 takes 0.7 of the time on a CPU.
        x = images.to(self.device, memory_format=torch.channels_last)
        with torch.inference_mode():
            if isinstance(self.network, Canonicalizer):
                return self.network(x)
            if isinstance(self.network, EquivariantNetwork):
                return canonicalize(x, group=self.group, activations=self.network(x), estimator="none")
            return canonicalize(
                x,
                self.network,
                group=self.group,
                score=self.score,
                estimator="none",
                network_dtype=self.network_dtype,
            )

    def fingerprint(self) -> str:
        """A checksum of all weights, which tells a network from the same one with other weights."""
        total = 0
        states = self.network.state_dict() if isinstance(self.network, nn.Module) else {}
        for name, value in states.items():
            if isinstance(value, Tensor):
                raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                total = zlib.crc32(raw, zlib.crc32(name.encode(), total))
        return f"{total:08x}"


def _group(network: Any, name: str | None) -> Group:
    own = None if network is None else network.group
    if name is None:
        if own is None:
            raise ValueError("--group: needed, unless the network is a Canonicalizer or an EquivariantNetwork")
        return as_group(own)
    group = as_group(name)
    if own is not None and own != group:
        raise ValueError(f"--group: the network is made for {own}, got {group}")
    return group


def _kind(network: object) -> str:
    return type(network).__name__
