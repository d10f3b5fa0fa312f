"""What a network does with its input: found by running it, since no two are written alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from .folding import activation_name, has_hooks, is_norm_act

#: Tried in turn on a network that doesn't say which images it takes; small ones first, since they cost less.
SIZES = (32, 64, 96, 224)


class FusionError(ValueError):
    """Why the orbit can't be fused into the first convolution of a network."""


class Stem(NamedTuple):
    """The first convolution of a network, and what consumes its output directly, where that can be taken along."""

    conv: nn.Conv2d
    norm: nn.Module | None = None
    activation: nn.Module | None = None


@contextmanager
def at_rest(network: nn.Module) -> Iterator[None]:
    """Run a network in eval mode, without a graph, leaving its modes and the random state as they were."""
    modes = [(module, module.training) for module in network.modules()]
    devices = {p.device.index for p in network.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)), torch.no_grad():
        try:
            for module, _ in modes:
                # Not eval(), which some networks override to do more than this.
                module.training = False
            yield
        finally:
            for module, mode in modes:
                module.training = mode


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    """Call ``hook(module, args, output)`` after every call of these modules."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def example_images(network: nn.Module, example: Tensor | None) -> Iterator[Tensor]:
    """Two random images each of the shapes the network may take: that of ``example``, or what its attributes say, or
    a guess."""
    conv = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if conv is None:
        raise FusionError("network: it has no Conv2d to fuse the orbit into")
    like = conv.weight if example is None else example
    shapes = _stated_shapes(network, conv.in_channels) if example is None else [tuple(example.shape[1:])]
    shapes = shapes or [(conv.in_channels, size, size) for size in SIZES]
    generator = torch.Generator().manual_seed(0)
    for channels, height, width in shapes:
        x = torch.rand(2, channels, height, width, generator=generator)
        # Else turning would hardly change the mean of an image, and a network that reads it would pass.
        x[..., : height // 4, : width // 4] += 1
        yield x.to(like)


def _stated_shapes(network: nn.Module, channels: int) -> list[tuple[int, int, int]]:
    """The (C, H, W) that a network's own attributes name, as ours, timm's and torchvision's do."""
    config = getattr(network, "default_cfg", None)
    stated = config.get("input_size") if isinstance(config, dict) else None
    stated = stated or getattr(network, "in_shape", None)
    if stated is not None:
        return [tuple(stated)]
    size = getattr(network, "img_size", None) or getattr(network, "image_size", None)
    if size is None:
        return []
    height, width = (size, size) if isinstance(size, int) else size
    return [(channels, height, width)]


def find_stem(network: nn.Module, x: Tensor) -> Stem:
    """The convolution that takes x itself, before any other is called.

    Raises:
        FusionError: if there is none, it takes something made of x, or it is called twice or has hooks.
    """
    names = {module: name for name, module in network.named_modules()}
    calls: Counter[nn.Module] = Counter()
    found: dict[str, nn.Module] = {}
    # The tensor that the next of them has to take; held, so that its identity stays its own.
    link = [x]
    direct: list[bool] = []

    def hook(module: nn.Module, args: tuple, output: object) -> None:
        calls[module] += 1
        takes_link = bool(args) and args[0] is link[-1]
        if not found:
            if not isinstance(module, nn.Conv2d):
                return
            found["conv"] = module
            direct.append(takes_link)
        elif not takes_link:
            return
        elif len(found) == 1 and isinstance(module, nn.modules.batchnorm._BatchNorm):
            found["norm"] = module
        elif "activation" not in found and activation_name(module) not in (None, "none"):
            found["activation"] = module
        else:
            return
        link.append(output)

    kept = {module for module in network.modules() if has_hooks(module)}
    with hooked(network.modules(), hook):
        network(x)
    if not found:
        raise FusionError("network: no Conv2d was called on the example")
    conv = found["conv"]
    name = names[conv] or type(conv).__name__
    if not direct[0]:
        raise FusionError(f"network: its first convolution, {name!r}, takes something made of the input, not itself")
    if calls[conv] > 1:
        raise FusionError(f"network: its first convolution, {name!r}, is called {calls[conv]} times")
    if conv in kept:
        raise FusionError(f"network: its first convolution, {name!r}, has hooks, which fusing would bypass")
    return _take_along(found, calls, kept)


def _take_along(found: dict[str, nn.Module], calls: Counter[nn.Module], kept: set[nn.Module]) -> Stem:
    stem: dict[str, nn.Module] = {"conv": found["conv"]}
    for role in ("norm", "activation"):
        module = found.get(role)
        if module is None:
            continue
        if calls[module] > 1 or module in kept:
            break
        stem[role] = module
        if is_norm_act(module):
            break
    return Stem(**stem)


def digests(network: nn.Module, x: Tensor, watched: Iterable[nn.Module]) -> tuple[Tensor, list[tuple]]:
    """The output, and for all that calls of ``watched`` modules take and give, shape and each row's mean and norm."""
    calls: list[tuple] = []

    def hook(module: nn.Module, args: tuple, output: object) -> None:
        for leaf in _pytree.tree_leaves((args, output)):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim():
                rows = leaf.flatten(1).double() if leaf.dim() > 1 else leaf[:, None].double()
                calls.append((module, leaf.shape, torch.stack((rows.mean(1), rows.norm(dim=1)))))

    with hooked(watched, hook):
        output = network(x)
    if not isinstance(output, Tensor):
        raise FusionError(f"network: expected to return a tensor, got {type(output).__name__}")
    return output, calls
