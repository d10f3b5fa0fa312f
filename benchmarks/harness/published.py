"""The published implementation, equiadapt 0.1.2; where it can't be imported, its path in our own words.

Both put padding around the images, rotate in a loop and crop, even where the rotation is a permutation; the network
they run is the package's own or the plain one of `network`. (Its canonical images are wrong for some reflections,
see `right`; its orbits and scores are right.)
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import eager
from .measure import Unavailable, reason
from .network import ConvNetwork
from .settings import CROP, Setting

_keep_alive: list = []


@functools.cache
def package() -> tuple[SimpleNamespace | None, str]:
    """What is used of equiadapt and kornia, and ""; or None, and why."""
    try:
        declare_torchvision_operators()
        from equiadapt.images.canonicalization.discrete_group import (
            OptimizedGroupEquivariantImageCanonicalization as Optimized,
        )
        from equiadapt.images.canonicalization_networks.custom_nonequivariant_networks import (
            ConvNetwork as PublishedNetwork,
        )
        from kornia.geometry import hflip, rotate
        from torchvision import transforms
    except Exception as error:
        return None, reason(error)
    return SimpleNamespace(
        Optimized=Optimized, ConvNetwork=PublishedNetwork, rotate=rotate, hflip=hflip, transforms=transforms
    ), ""


def note() -> str:
    """For the rows of this contender, if it isn't the package itself."""
    found, why = package()
    return "" if found is not None else f"path rewritten, as the package can't be imported: {why}"


def declare_torchvision_operators() -> None:
    """Let a torchvision built for CUDA be imported beside a torch without it: two schemas it insists on."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or _keep_alive:
        return
    for library in Path(spec.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(library)
            return
        except OSError:
            pass
    schemas = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):  # the tests may have declared it
            schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _keep_alive.append(schemas)


def right(element: Tensor, group: str) -> Tensor:
    """Where equiadapt's canonical image is the orbit member it chose: reflections only if twice the angle is 0."""
    n = int(group[1:])
    return (element < n) | (2 * element % n == 0)


class Rewritten(nn.Module):
    """equiadapt's path without its package: same steps, same interface as far as it is used here."""

    def __init__(self, network: nn.Module, setting: Setting, artifact: bool) -> None:
        super().__init__()
        self.network, self.setting, self.artifact = network, setting, artifact
        self.n, self.reflections = int(setting.group[1:]), setting.group[0] == "D"
        self.reference_vector = nn.Parameter(torch.zeros(1, setting.vector), requires_grad=False)

    def orbit(self, x: Tensor) -> Tensor:
        members = []
        for reflect in range(1 + self.reflections):
            for j in range(self.n):
                angle = torch.full((x.shape[0],), -360.0 * j / self.n, device=x.device)
                turned = turn(pad(x), angle)
                members.append(crop(turned.flip(-1) if reflect else turned, x.shape[-1]))
        return torch.cat(members)

    def canonicalize(self, x: Tensor) -> Tensor:
        small = eager.crop_resize(x, self.setting)
        members = self.orbit(small)
        self.vectors = self.network(members)
        if self.artifact:
            step = 360.0 / self.n
            angle = torch.randint(self.n, members.shape[:1], device=x.device) * step
            there = crop(turn(pad(members), -angle), members.shape[-1])
            self.again = self.network(crop(turn(pad(there), angle), members.shape[-1]))
        reference = self.reference_vector.repeat(self.vectors.shape[0], 1)
        self.activations = F.cosine_similarity(reference, self.vectors).reshape(self.setting.order, -1).T
        choice = F.one_hot(self.activations.argmax(1), self.setting.order).to(x.dtype)
        if self.training:
            soft = self.activations.softmax(1)
            choice = choice + soft - soft.detach()
        ids = torch.arange(self.setting.order, device=x.device)
        angle = (choice * (ids % self.n * (360.0 / self.n))).sum(1)
        padded = pad(x)
        if self.reflections:
            flag = (choice * (ids >= self.n)).sum(1)[:, None, None, None]
            padded = (1 - flag) * padded + flag * padded.flip(-1)
        return crop(turn(padded, -angle), x.shape[-1])

    def losses(self) -> tuple[Tensor, Tensor, Tensor]:
        vectors = self.vectors.unflatten(0, (self.setting.order, -1)).transpose(0, 1)
        target = torch.zeros(vectors.shape[0], dtype=torch.long, device=vectors.device)
        apart = 1 - torch.eye(self.setting.order, device=vectors.device)
        contrastive = (vectors @ vectors.mT * apart).abs().mean()
        return F.cross_entropy(self.activations, target), contrastive, F.mse_loss(self.again, self.vectors)


class Published(nn.Module):
    """The package's canonicalizer behind the same interface."""

    def __init__(self, setting: Setting, artifact: bool) -> None:
        super().__init__()
        found, why = package()
        if found is None:
            raise Unavailable(why)
        network = found.ConvNetwork(setting.small, 16, 7, setting.layers, setting.vector)
        options = SimpleNamespace(
            beta=1.0,
            input_crop_ratio=CROP,
            resize_shape=setting.resize,
            group_type="roto-reflection" if setting.group[0] == "D" else "rotation",
            num_rotations=int(setting.group[1:]),
            # Not gated on training in the package: at inference it would only cost.
            artifact_err_wt=float(artifact),
            learn_ref_vec=False,
        )
        self.module = found.Optimized(network, options, (setting.channels, setting.size, setting.size))
        self.network = network
        self.reference_vector = self.module.reference_vector

    def orbit(self, x: Tensor) -> Tensor:
        self.module.device = x.device
        return self.module.group_augment(x)

    def canonicalize(self, x: Tensor) -> Tensor:
        return self.module.canonicalize(x)

    @property
    def activations(self) -> Tensor:
        return self.module.canonicalization_info_dict["group_activations"]

    def losses(self) -> tuple[Tensor, Tensor, Tensor]:
        """Prior, contrastive, artifact; the package adds up the latter two, so the third here is 0."""
        both = self.module.get_optimization_specific_loss()
        return self.module.get_prior_regularization_loss(), both, torch.zeros_like(both)


def model(
    setting: Setting, state: tuple[dict[str, Tensor], Tensor], device: torch.device, *, artifact: bool = False
) -> Published | Rewritten:
    """The package's model, or the rewritten one, with these weights."""
    weights, reference = state
    if package()[0] is not None:
        made: Published | Rewritten = Published(setting, artifact)
    else:
        made = Rewritten(ConvNetwork(setting.small, 16, 7, setting.layers, setting.vector), setting, artifact)
    made.network.load_state_dict(weights)
    with torch.no_grad():
        made.reference_vector.copy_(reference)
    return made.to(device, dtype=torch.float32)


def rotation(size: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Pad, rotate by per-sample degrees (counter-clockwise), crop: as the package turns images of this size."""
    found, _ = package()
    if found is None:
        return lambda x, degrees: crop(turn(pad(x), degrees), size)
    padding = found.transforms.Pad(-(-size // 2), padding_mode="edge")
    cropping = found.transforms.CenterCrop((size, size))
    return lambda x, degrees: cropping(found.rotate(padding(x), degrees))


def pad(x: Tensor) -> Tensor:
    return F.pad(x, [-(-x.shape[-1] // 2)] * 4, mode="replicate")


def crop(x: Tensor, size: int) -> Tensor:
    start = (x.shape[-1] - size) // 2
    return x[..., start : start + size, start : start + size]


def turn(x: Tensor, degrees: Tensor) -> Tensor:
    """Rotate square images counter-clockwise as displayed, zeros outside."""
    angle = torch.deg2rad(degrees).to(x.dtype)
    c, s, o = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack((torch.stack((c, -s, o), -1), torch.stack((s, c, o), -1)), 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, "bilinear", "zeros", align_corners=True)
