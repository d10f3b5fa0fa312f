"""Fusing the orbit into the first convolution of an existing network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import checks, ops
from ..groups import CyclicGroup, Group, as_group
from .orbit_conv2d import OrbitConv2d
from .tracing import FusionError, Stem, at_rest, digests, example_images, find_stem

#: Verification runs on this group: whether E·B rows may come of B images doesn't depend on which. It is small, E is not
#: B, and it interpolates.
PROBE = CyclicGroup(3)

#: Largest difference, relative to the largest value, that rounding may explain.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
COARSE = 5e-2


class FusedNetwork(nn.Module):
    """``network(orbit(x))`` as one module whose first convolution makes the orbit: (B, C, H, W) → (E·B, d).

    Made by `fuse_first_layer`. It has no parameters, buffers or mode of its own: all of them are ``network``'s, its
    only child, which goes on working by itself. Only the modules on the way from ``network`` to the replaced ones have
    stand-ins here, and these read everything but the replaced children from the originals, so moving, loading,
    freezing, or exchanging other parts of ``network`` needs nothing done here. (Once compiled, it follows modes and
    tensors only.)
    """

    def __init__(self, network: nn.Module, stem: Stem, group: Group, padding_mode: str) -> None:
        super().__init__()
        self.network = network
        self.orbit_group = group
        self.padding_mode = padding_mode
        first = OrbitConv2d.from_conv(
            stem.conv, group, norm=stem.norm, activation=stem.activation, padding_mode=padding_mode
        )
        views: dict[nn.Module, nn.Module] = {stem.conv: first}
        views.update((bypassed, nn.Identity()) for bypassed in stem[1:] if bypassed is not None)
        self._bypassed = tuple(views)
        # In tuples, so that they aren't registered: every parameter has one name.
        self._root = (_stand_in(network, views),)
        self._views = tuple(
            (
                source,
                view,
                tuple((name, child, views[child]) for name, child in source._modules.items() if child in views),
            )
            for source, view in views.items()
            if source not in self._bypassed
        )

    @property
    def training(self) -> bool:
        return self.network.training

    @training.setter
    def training(self, mode: bool) -> None:
        """Only ``network`` has a mode."""

    def forward(self, x: Tensor) -> Tensor:
        for source, view, children in self._views:
            if torch.compiler.is_compiling():
                view.training = source.training
            else:
                _follow(source, view, children)
        return self._root[0](x)

    def bypassed(self) -> set[nn.Module]:
        """Modules of ``network`` that don't run here: replaced, within one that is, or with a stand-in."""
        within = (part for module in self._bypassed for part in module.modules())
        return {*within, *(source for source, _, _ in self._views)}

    def extra_repr(self) -> str:
        return f"{self.orbit_group}, padding_mode={self.padding_mode}"


def _stand_in(module: nn.Module, views: dict[nn.Module, nn.Module]) -> nn.Module:
    """The module itself if nothing below it is replaced; else another of its type, noted in ``views``."""
    if module in views:
        return views[module]
    children = [child for child in module._modules.values() if child is not None]
    if all(_stand_in(child, views) is child for child in children):
        return module
    view = type(module).__new__(type(module))
    _follow(module, view, tuple((k, v, views[v]) for k, v in module._modules.items() if v in views))
    views[module] = view
    return view


def _follow(source: nn.Module, view: nn.Module, children: tuple[tuple[str, nn.Module, nn.Module], ...]) -> None:
    """Give ``view`` all that ``source`` has, its very dicts of tensors included, except those children."""
    modules = dict(source._modules)
    for name, original, replacement in children:
        if modules.get(name) is not original:
            raise RuntimeError(f"network: {name!r} is another module than when it was fused; fuse it again")
        modules[name] = replacement
    view.__dict__.update({**source.__dict__, "_modules": modules, "_compiled_call_impl": None})


def fuse_first_layer(
    network: nn.Module,
    group: Group | str,
    *,
    example: Tensor | None = None,
    padding_mode: str = "border",
) -> FusedNetwork:
    """A module that equals ``network(orbit(x, group))`` but makes the orbit within the network's first convolution.

    The convolution must take the input itself and be called once; a BatchNorm2d that takes its output, and then a
    ReLU, GELU or SiLU, are taken along. Both forms are run on an example, in eval mode, and every intermediate result
    compared. ``network`` stays as it is, its modes, running statistics and the random state included.

    Args:
        network: (N, C, h, w) → (N, …), any module.
        group: such as ``"C4"``.
        example: images (B, C, h, w) such as it takes; only shape, type and device count. By default from the
            network's attributes (``default_cfg``, ``in_shape``, ``img_size``, ``image_size``), or the first square
            of 32, 64, 96 or 224 that it runs on.
        padding_mode: "border" or "zeros", beyond the edge of an image.

    Raises:
        FusionError: a ValueError that says why this network can't be fused.
    """
    group = as_group(group)
    if getattr(network, "orbit_group", None) is not None:
        raise FusionError(f"network: fused already, for {network.orbit_group}")
    if not isinstance(network, nn.Module):
        raise FusionError(f"network: expected a torch.nn.Module, got {type(network).__name__}")
    if any(isinstance(m, torch.jit.ScriptModule) or hasattr(m, "_orig_mod") for m in network.modules()):
        raise FusionError("network: compiled already; fuse first, then compile")
    checks.padding_mode(padding_mode)
    if example is not None:
        checks.images("example", example)
    with at_rest(network):
        x, stem = _probe(network, example)
        stem = _verified(network, stem, x, padding_mode)
    return FusedNetwork(network, stem, group, padding_mode)


def _probe(network: nn.Module, example: Tensor | None) -> tuple[Tensor, Stem]:
    """The first example the network runs on, and what it does with it."""
    failure = "nothing to run it on"
    for x in example_images(network, example):
        try:
            return x, find_stem(network, x)
        except FusionError:
            raise
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
    shape = tuple(x.shape)
    raise FusionError(f"network: it can't be run on random images {shape}; pass example=… ({failure})")


def _verified(network: nn.Module, stem: Stem, x: Tensor, padding_mode: str) -> Stem:
    """As much of the stem as can be fused without changing any result."""
    try:
        OrbitConv2d.from_conv(stem.conv, PROBE)
    except ValueError as error:
        raise FusionError(f"network: its first convolution can't be fused: {error}") from error
    members = ops.orbit(x, PROBE, padding_mode=padding_mode)
    failure = ""
    for candidate in dict.fromkeys((stem, stem._replace(activation=None), Stem(stem.conv))):
        try:
            fused = FusedNetwork(network, candidate, PROBE, padding_mode)
            watched = set(network.modules()) - fused.bypassed()
            failure = _difference(digests(fused, x, watched), digests(network, members, watched))
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        if not failure:
            return candidate
    raise FusionError(
        "network: it gives other results if its first convolution makes the orbit, so it must read its input or the "
        f"batch size before or beside that convolution ({failure})"
    )


def _difference(ours: tuple[Tensor, list[tuple]], theirs: tuple[Tensor, list[tuple]]) -> str:
    """How two runs differ, "" if they don't."""
    (output, calls), (expected, expected_calls) = ours, theirs
    if [call[:2] for call in calls] != [call[:2] for call in expected_calls]:
        return "its modules are called otherwise, or on other shapes"
    if output.shape != expected.shape:
        return f"its output has shape {tuple(output.shape)}, not {tuple(expected.shape)}"
    tolerance = TOLERANCE.get(expected.dtype, COARSE)
    pairs = [(a[2], b[2]) for a, b in zip(calls, expected_calls, strict=True)]
    for ours, theirs in [(output.double(), expected.double()), *pairs]:
        limit = tolerance * theirs.abs().nan_to_num().amax().item() if theirs.numel() else 0.0
        if not torch.allclose(ours, theirs, rtol=0, atol=limit, equal_nan=True):
            return f"values differ by up to {(ours - theirs).abs().max().item():.3g}"
    return ""
