"""The paper's Figure 2: identity metric against training time, of both methods in both packages.

All contenders of a curve minimize the same sum with the same optimizer, on the same batches, one after another in one
process. The sum is that of the published package: prior without beta, and EquiOptAdapt's contrastive term. The
identity metric is taken on test images, and that time doesn't count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.harness import published

from . import methods, networks
from .plan import CANONICALIZED, Curve
from .train import BATCH, seed_of

#: Test images that the identity metric is taken of, and how many steps lie between two points of a curve.
WATCHED = 1000
INTERVAL = 4


class Contender(Protocol):
    """A canonicalizer under training."""

    def parameters(self) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...

    def loss(self, x: Tensor) -> Tensor: ...

    def identity(self, x: Tensor) -> Tensor: ...


class Ours(nn.Module):
    """A method as `methods` has it."""

    def __init__(self, method: str, group: str) -> None:
        super().__init__()
        self.method = methods.METHODS[method]
        assert self.method.canonicalizer is not None
        self.module = self.method.canonicalizer(group)
        if method == "equiadapt":
            self.module.network = networks.equivariant(group, as_published=True)

    def loss(self, x: Tensor) -> Tensor:
        form = self.module(x)
        total = form.prior_loss()
        return total + self.method.contrastive * form.contrastive_loss() if self.method.contrastive else total

    def identity(self, x: Tensor) -> Tensor:
        return self.module(x).identity_rate()


class Published(nn.Module):
    """The same method in the published package; the networks are the package's own, of the same size as ours."""

    def __init__(self, method: str, group: str) -> None:
        super().__init__()
        found, why = published.package()
        if found is None:
            raise published.Unavailable(why)
        kind, rotations = ("roto-reflection" if group[0] == "D" else "rotation"), int(group[1:])
        options = SimpleNamespace(
            beta=1.0, input_crop_ratio=1.0, resize_shape=networks.SHAPE[1], group_type=kind, num_rotations=rotations,
            artifact_err_wt=0.0, learn_ref_vec=False,
        )  # fmt: skip
        self.contrastive = methods.METHODS[method].contrastive
        if method == "equioptadapt":
            network = found.ConvNetwork(networks.SHAPE, *networks.SCORER)
            self.module = found.Optimized(network, options, networks.SHAPE)
        else:
            from equiadapt.images.canonicalization.discrete_group import GroupEquivariantImageCanonicalization
            from equiadapt.images.canonicalization_networks import ESCNNEquivariantNetwork

            channels, kernel, layers = networks.PUBLISHED_DIRECT
            network = ESCNNEquivariantNetwork(networks.SHAPE, channels, kernel, kind, rotations, layers)
            self.module = GroupEquivariantImageCanonicalization(network, options, networks.SHAPE)
        networks.without_dropout(network)

    def loss(self, x: Tensor) -> Tensor:
        self.module.canonicalize(x)
        total = self.module.get_prior_regularization_loss()
        return total + self.contrastive * self.module.get_optimization_specific_loss() if self.contrastive else total

    def identity(self, x: Tensor) -> Tensor:
        self.module.canonicalize(x)
        return self.module.get_identity_metric()


PACKAGES: dict[str, Callable[[str, str], Contender]] = {"equifast": Ours, "equiadapt": Published}


def contenders() -> Iterator[tuple[str, str, Callable[[str, str], Contender]]]:
    """Name, method and constructor of each."""
    for method in CANONICALIZED:
        for package, make in PACKAGES.items():
            yield f"{methods.METHODS[method].title}, {package}", method, make


def measure(curve: Curve, images: Tensor, watched: Tensor) -> dict[str, dict[str, Any]]:
    """Train every contender for `curve.steps` steps on images (N, 1, 28, 28).

    Returns:
        For each contender, points of its curve: ``steps``, ``seconds`` of training, and ``identity`` of the first
        `WATCHED` images of ``watched``. Or why it is ``missing``.
    """
    found = {}
    for name, method, make in contenders():
        torch.manual_seed(seed_of(curve.id, name))
        try:
            contender = make(method, curve.group)
        except published.Unavailable as error:
            found[name] = {"missing": str(error)}
            continue
        optimizer = torch.optim.AdamW(contender.parameters(), lr=methods.METHODS[method].rate)
        found[name] = _points(contender, optimizer, curve, name, images, watched[:WATCHED])
    return found


def _points(
    contender: Contender, optimizer: torch.optim.Optimizer, curve: Curve, name: str, images: Tensor, watched: Tensor
) -> dict[str, list]:
    generator = torch.Generator().manual_seed(seed_of(curve.id, "batches"))
    points: dict[str, list] = {"steps": [], "seconds": [], "identity": []}
    seconds = 0.0
    for step in tqdm(range(curve.steps + 1), desc=f"{curve.id}, {name}", leave=False, ncols=100, mininterval=0.5):
        if step % INTERVAL == 0 or step == curve.steps:
            contender.train(False)
            with torch.no_grad():
                identity = contender.identity(watched).item()
            contender.train()
            for key, value in (("steps", step), ("seconds", seconds), ("identity", identity)):
                points[key].append(value)
        if step == curve.steps:
            break
        x = images[torch.randint(len(images), (BATCH,), generator=generator)]
        start = time.perf_counter()
        optimizer.zero_grad()
        contender.loss(x).backward()
        optimizer.step()
        seconds += time.perf_counter() - start
    return points
