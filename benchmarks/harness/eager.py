"""The strongest plain PyTorch we know for each operation: what a careful user would write without equifast.

Exact elements are ``rot90`` and ``flip``; an interpolated angle is one ``grid_sample`` with clamped borders, shared by
the four quarter turns of it. Where two ways exist, `quickest` picks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from equifast.groups import ROW, as_group, multiply, quarter_turn

from . import cache, clocks
from .settings import Setting

Matrix = tuple[float, float, float, float]
IDENTITY: Matrix = (1.0, 0.0, 0.0, 1.0)


def table(group: str, *, inverse: bool = True) -> list[tuple[int, Matrix]]:
    """``(code, base)`` of each element: interpolate by base, then ``code % 4`` quarter turns and a flip."""
    flat = as_group(group).action_table(inverse=inverse)
    return [(int(flat[i]), tuple(flat[i + 1 : i + ROW])) for i in range(0, len(flat), ROW)]


def exact(group: str) -> bool:
    """Whether all elements are permutations of square images, so that there and back is the image itself."""
    return all(base == IDENTITY for _, base in table(group))


def crop_resize(x: Tensor, setting: Setting) -> Tensor:
    """Centre crop and antialiased resize, as torchvision does them to tensors."""
    start = round((setting.size - setting.crop) / 2)
    view = x[..., start : start + setting.crop, start : start + setting.crop]
    size = (setting.resize, setting.resize)
    if x.device.type == "cpu" and x.dtype.itemsize == 2:  # for dry runs: PyTorch has no such kernel
        view = view.float()
    return F.interpolate(view, size, mode="bilinear", align_corners=False, antialias=True).to(x.dtype)


def resample(x: Tensor, matrices: Tensor) -> Tensor:
    """Read square images at ``M·p`` for every position p about the centre: matrices (B, 2, 2) or (2, 2)."""
    # A grid in half precision is off by pixels, and grid_sample wants one type of both.
    wide = x if x.dtype.itemsize > 2 else x.float()
    theta = F.pad(matrices.to(wide), (0, 1)).expand(x.shape[0], 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(wide, grid, "bilinear", "border", align_corners=False).to(x.dtype)


def permute(x: Tensor, code: int) -> Tensor:
    x = torch.rot90(x, -(code % 4), (-2, -1))
    return x.flip(-1) if code >= 4 else x


def orbit(x: Tensor, group: str) -> Tensor:
    """(B, C, H, W) → (E·B, C, H, W)."""
    rows = table(group)
    bases = {base: x if base == IDENTITY else resample(x, matrix(base, x.device)) for _, base in rows}
    return torch.cat([permute(bases[base], code) for code, base in rows])


def act_by_grid(x: Tensor, element: Tensor, group: str, inverse: bool = True) -> Tensor:
    """Every sample through its own grid: one pass, no synchronization, bilinear even where a permutation would do."""
    matrices = [multiply(base, quarter_turn(code)) for code, base in table(group, inverse=inverse)]
    return resample(x, constant(tuple(matrices), x.device).unflatten(1, (2, 2))[element])


def act_by_element(x: Tensor, element: Tensor, group: str, inverse: bool = True) -> Tensor:
    """All samples of an element at once: exact where it can be, but looks at the ids on the host."""
    out = torch.empty_like(x)
    for e, (code, base) in enumerate(table(group, inverse=inverse)):
        mine = (element == e).nonzero().squeeze(1)
        if mine.numel():
            part = x[mine]
            out[mine] = permute(part if base == IDENTITY else resample(part, matrix(base, x.device)), code)
    return out


def act_by_orbit(x: Tensor, element: Tensor, group: str) -> Tensor:
    """Gather from the whole orbit."""
    members = orbit(x, group).unflatten(0, (-1, x.shape[0]))
    return members[element, torch.arange(x.shape[0], device=x.device)]


ACTS = (act_by_grid, act_by_element, act_by_orbit)


@functools.cache
def quickest_act(setting: Setting, device: torch.device) -> Callable:
    """Of the three above, for the images of a setting and elements in turn."""
    x = setting.images(torch.Generator().manual_seed(0), device)
    element = torch.arange(setting.batch, device=device) % setting.order
    ways = {act.__name__: partial(act, group=setting.group) for act in ACTS}
    return quickest(ways, x, element)[1].func


def scores(vectors: Tensor, reference: Tensor, order: int) -> Tensor:
    """Cosines (B, E)."""
    return F.cosine_similarity(vectors, reference[None], dim=-1).unflatten(0, (order, -1)).t()


def contrastive(vectors: Tensor, order: int) -> Tensor:
    v = vectors.unflatten(0, (order, -1)).transpose(0, 1)
    apart = 1 - torch.eye(order, device=v.device, dtype=v.dtype)
    return (v @ v.mT * apart).abs().mean()


def prior(activations: Tensor) -> Tensor:
    return F.cross_entropy(activations, torch.zeros(len(activations), dtype=torch.long, device=activations.device))


def artifact(members: Tensor, vectors: Tensor, network: Callable[[Tensor], Tensor], group: str) -> Tensor:
    """MSE between the vectors of the orbit and of its rows rotated there and back by a random element each."""
    if exact(group):
        return vectors.new_zeros(())
    element = torch.randint(as_group(group).order, members.shape[:1], device=members.device)
    there = act_by_element(members, element, group)
    return F.mse_loss(network(act_by_element(there, element, group, inverse=False)), vectors)


def quickest(ways: dict[str, Callable], *inputs: Tensor, tries: int = 2) -> tuple[str, Callable]:
    """The way with the least time on these inputs, and its name; on a GPU with cold inputs."""
    device = inputs[0].device

    def best(way: Callable) -> float:
        if device.type == "cuda":
            copies = cache.copied(inputs, min(cache.copies_needed(inputs, device), tries))
            makes = [partial(partial, way, *each) for each in copies]
            return min(clocks.loop_ms(makes, len(makes), device, cold=True) for _ in range(tries))
        way(*inputs)
        return min(clocks.time_ms(partial(way, *inputs), 1, device) for _ in range(tries))

    with torch.inference_mode():
        name = min(ways, key=lambda name: best(ways[name]))
    return name, ways[name]


def matrix(base: Matrix, device: torch.device) -> Tensor:
    """(2, 2)"""
    return constant(base, device).unflatten(0, (2, 2))


def constant(values: tuple, device: torch.device) -> Tensor:
    """A tensor that stays on its device from one call to the next."""
    if device.type == "cpu" or torch.compiler.is_compiling():
        return torch.tensor(values, device=device)
    return _kept(values, device)


@functools.cache
def _kept(values: tuple, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)
