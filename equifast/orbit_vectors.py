"""Running a network on the orbit of images: at once, or in parts that fit the caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from . import lazy_orbit
from .transform_set import Transforms

Network = Callable[[Tensor], Any]


class OrbitNetwork(Protocol):
    """A network that takes images (B, C, H, W) and makes their orbit itself, such as `nn.FusedNetwork`.

    It is called with another group only by a search (``refine``): with C1, so that it takes members as they are.
    """

    orbit_group: Transforms
    padding_mode: str

    def __call__(self, x: Tensor, /, group: Transforms | None = None) -> Any: ...


#: What a network may be run in, under autocast; None: as it is.
NETWORK_DTYPES = (None, torch.bfloat16, torch.float16)

#: Bytes of orbit that a network takes at once where it may be run in parts: 64 rows of 3×96×96 float32. Twice as many
#: rows made `ConvNetwork`, layer by layer, 50 % slower (2 cores), because each layer's output was then fresh memory of
#: the system.
CHUNK_BYTES = 7 << 20

#: The same for types of 16 bits: 256 rows. Their first output is still small enough for memory that is used again. Half
#: as many rows made `ConvNetwork`, layer by layer, 7 % slower, and a quarter 21 % (1 core).
NARROW_CHUNK_BYTES = 14 << 20

#: The same for a network that keeps little in memory, as its ``keeps_little`` says. A quarter of the rows made
#: `ConvNetwork` 6 % slower (1 core, 128×3×96×96), because more calls pack the weights more often.
LITTLE_CHUNK_BYTES = 28 << 20

#: Libraries whose modules, in eval mode, treat every row alone and keep no state of a call.
STATELESS = ("equifast", "timm", "torch", "torchvision", "transformers")


def orbit_maker(network: Network) -> OrbitNetwork | None:
    """The part of a network that takes images and makes their orbit itself; None if the network takes rows.

    It is the network itself, or what a wrapper (DDP, an average of weights) keeps as its ``module``.
    """
    inner: Any = network
    while inner is not None and getattr(inner, "orbit_group", None) is None:
        inner = getattr(inner, "module", None)
    return inner


def orbit_vectors(
    x: Tensor,
    network: Network,
    group: Transforms,
    padding_mode: str,
    dtype: torch.dtype | None = None,
    *,
    are_rows: bool = False,
) -> Tensor:
    """``network(orbit(x))``, (E·B, d), checked. With ``dtype``, the network runs under autocast to it.

    With ``are_rows`` the images are members of orbits already, and the group is C1. The network gets them as its
    orbits, so its first layer runs the kernel that it runs on others. A network that makes the orbit itself is told.
    """
    if dtype is None:
        return _orbit_vectors(x, network, group, padding_mode, are_rows)
    with torch.autocast(x.device.type, dtype):
        vectors = _orbit_vectors(x, network, group, padding_mode, are_rows)
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


def _orbit_vectors(x: Tensor, network: Network, group: Transforms, padding_mode: str, are_rows: bool) -> Tensor:
    maker = orbit_maker(network)
    made = None if maker is None or are_rows else (maker.orbit_group.name, maker.padding_mode)
    if maker is not None and made not in (None, (group.name, padding_mode)):
        theirs, ours = f"{maker.orbit_group} with {maker.padding_mode}", f"{group} with {padding_mode}"
        raise ValueError(f"network: makes the orbit of {theirs} padding, called for {ours}")

    def run(images: Tensor) -> Tensor:
        if maker is None:
            output = lazy_orbit.run(network, images, group, padding_mode, is_made=are_rows)
        else:
            output = cast(OrbitNetwork, network)(images, **({"group": group} if are_rows else {}))
        vectors = _vectors_of(output)
        rows = group.order * images.shape[0]
        if not isinstance(vectors, Tensor) or vectors.dim() != 2 or vectors.shape[0] != rows:
            got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise ValueError(f"network: expected to return ({rows}, d), got {got}")
        return vectors

    step = _chunk(x, network, group)
    if step >= x.shape[0]:
        return run(x)
    vectors: Tensor | None = None
    for start in range(0, x.shape[0], step):
        images = x[start : start + step]
        part = run(images).unflatten(0, (group.order, images.shape[0]))
        if vectors is None:
            vectors = part.new_empty(group.order, x.shape[0], part.shape[2])
        vectors[:, start : start + step] = part
    assert vectors is not None  # there are images, so there was a part
    return vectors.flatten(0, 1)


def _vectors_of(output: Any) -> Any:
    """The vectors in what a network returned: the output itself, or those in an output object of transformers."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "pooler_output"):
        if isinstance(getattr(output, name, None), Tensor):
            return getattr(output, name)
    return output


def _chunk(x: Tensor, network: Network, group: Transforms) -> int:
    """Images to run at once: all of them, or CHUNK_BYTES of orbit where parts give the same as the whole."""
    everything = max(x.shape[0], 1)
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not isinstance(network, nn.Module):
        return everything
    # Under autocast, the first layer writes the narrow type whatever the images are.
    narrow = torch.is_autocast_enabled("cpu")
    itemsize = min(x.itemsize, torch.get_autocast_dtype("cpu").itemsize) if narrow else x.itemsize
    orbit_bytes = group.order * x[:1].numel() * itemsize
    chunk_bytes = CHUNK_BYTES if itemsize > 2 else NARROW_CHUNK_BYTES
    if everything * orbit_bytes > chunk_bytes and _keeps_little(network, x):
        chunk_bytes = LITTLE_CHUNK_BYTES
    fitting = max(chunk_bytes // max(orbit_bytes, 1), 1)
    if fitting >= everything:
        return everything
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in network.parameters())):
        return everything
    in_parts = not _has_any_global_hook() and all(map(_treats_rows_alone, network.modules()))
    return fitting if in_parts else everything


def _keeps_little(network: nn.Module, x: Tensor) -> bool:
    answer = getattr(network, "keeps_little", None)
    return callable(answer) and answer(x)


def _treats_rows_alone(module: nn.Module) -> bool:
    """Whether the module gives each row the same result whatever the others are, and nobody watches its calls."""
    if module.training or module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    if type(module).__module__.partition(".")[0] not in STATELESS:
        return False
    return not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is not None
