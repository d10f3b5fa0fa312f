"""What is trained by one process and by several: a canonicalizer with a classifier behind it, its data and its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from equifast import CanonicalForm, canonicalize
from equifast.nn import Canonicalizer, EquivariantNetwork, TinyCanonicalizer

from ..networks import build

BATCH = 8
RATE = 0.05


class Direct(nn.Module):
    """Canonical forms by the direct method."""

    def __init__(self, group: str) -> None:
        super().__init__()
        self.network = EquivariantNetwork((3, 32, 32), group, out_channels=4, num_layers=2, stride=2)
        self.group = group

    def forward(self, x: Tensor) -> CanonicalForm:
        return canonicalize(x, group=self.group, activations=self.network(x))


#: Canonicalizers by the name of their network. Batch normalization is in eval mode: in training, each process
#: normalizes by its own part of the batch, as DDP is meant to.
CANONICALIZERS: dict[str, Callable[[], nn.Module]] = {
    "ViT": lambda: Canonicalizer(build("ViT"), "C8", vector_size=10),
    "ConvNetwork": lambda: Canonicalizer(build("ConvNetwork"), "D4", beta=3.0).eval(),
    "ResNet": lambda: Canonicalizer(build("ResNet"), "C4", vector_size=10, estimator="soft").eval(),
    "tiny": lambda: TinyCanonicalizer(3, "C8", channels=8, estimator="angle"),
    "direct": lambda: Direct("D4").eval(),
}


class Pipeline(nn.Module):
    """A canonicalizer and a classifier of its images: (B, 3, 32, 32) → a form and logits (B, 5)."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.canonicalizer = CANONICALIZERS[name]()
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
        self.to(dtype)

    def forward(self, x: Tensor) -> tuple[CanonicalForm, Tensor]:
        form = self.canonicalizer(x)
        return form, self.classifier(form.image)


def loss_of(output: tuple[CanonicalForm, Tensor], labels: Tensor) -> Tensor:
    form, logits = output
    loss = F.cross_entropy(logits, labels) + form.prior_loss(beta=2.0)
    return loss if form.vectors is None else loss + 0.1 * form.contrastive_loss(normalize=True)


def batches(count: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's part of each of ``count`` batches: all of it where there is no group of processes."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        coarse = torch.randn(BATCH, 3, 9, 9, generator=generator, dtype=dtype)
        x = F.interpolate(coarse, (32, 32), mode="bicubic")
        labels = torch.randint(5, (BATCH,), generator=generator)
        yield x.chunk(size)[rank], labels.chunk(size)[rank]


def train(model: nn.Module, dtype: torch.dtype, steps: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    """Train on a batch a step: the losses of this process, and the last gradients as `gradients` has them."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses = []
    for x, labels in batches(steps, dtype):
        if losses:
            optimizer.step()
            optimizer.zero_grad()
        loss = loss_of(model(x), labels)
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses), gradients(model)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of each parameter, by its name without those of wrappers."""
    found = {}
    for name, parameter in model.named_parameters():
        for wrapper in ("module.", "_orig_mod."):
            name = name.replace(wrapper, "")
        if parameter.grad is not None:
            found[name] = whole(parameter.grad)
    return found


def whole(t: Tensor) -> Tensor:
    """All of a tensor that may be sharded."""
    return (t.full_tensor() if hasattr(t, "full_tensor") else t).detach()


#: How far results may be from those of one process: sums are added in another order.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}


def assert_alike(ours: Tensor, expected: Tensor, what: str, scale: float = 0.0) -> None:
    """Whether a tensor is the expected one, relative to its norm, or to ``scale`` if that is larger."""
    error, size = (ours - expected).norm().item(), max(expected.norm().item(), scale)
    assert expected.isfinite().all() and error <= TOLERANCE[expected.dtype] * size, f"{what}: {error} of {size}"


def assert_same_gradients(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Errors are relative to all gradients together: a small one is the sum of larger ones that cancel."""
    assert ours.keys() == expected.keys()
    together = torch.stack([grad.norm() for grad in expected.values()]).norm().item()
    for name, grad in ours.items():
        assert_alike(grad, expected[name], name, together)


def assert_same_training(parts: list[tuple[Tensor, dict[str, Tensor]]], alone: tuple[Tensor, dict[str, Tensor]]):
    """Mean losses, and in each process the gradients, are those of one process on the whole batch."""
    assert_alike(torch.stack([losses for losses, _ in parts]).mean(0), alone[0], "losses")
    for _, grads in parts:
        assert_same_gradients(grads, alone[1])
