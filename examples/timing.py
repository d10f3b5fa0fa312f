"""What canonicalization costs, beside the same steps in plain PyTorch: interleaved in one run, medians."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import equifast


class Times(NamedTuple):
    """Milliseconds an image, and how many times longer eager PyTorch takes: all of it, and all but the network."""

    whole: float
    whole_ratio: float
    rest: float
    rest_ratio: float


def eager(x: Tensor, network: Callable, score: Callable, group) -> Tensor:
    """Canonical images as one would write it without equifast (quarter turns and flips only)."""
    members = [torch.rot90(x, -j, (2, 3)) for j in range(group.n)]
    if group.order > group.n:
        members += [member.flip(3) for member in members]
    orbit = torch.cat(members)
    chosen = score(network(orbit)).view(group.order, len(x)).argmax(0)
    return orbit.view(group.order, *x.shape)[chosen, torch.arange(len(x))]


class Free(nn.Module):
    """A network that takes no time: what is left is everything around it."""

    def forward(self, rows: Tensor) -> Tensor:
        return torch.rand(len(rows), 1)


@torch.inference_mode()
def compare(module: equifast.nn.Canonicalizer, x: Tensor, rounds: int = 7) -> Times:
    """Time a canonicalizer on images x, after making sure that both ways give the same images."""

    def cosine(vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=1) @ F.normalize(module.reference, dim=0)

    score = module.score or cosine
    agree = (module(x).image == eager(x, module.network, score, module.group)).flatten(1).all(1)
    if agree.float().mean() < 0.95:  # rounding may decide between two equally good members
        raise RuntimeError(f"canonical images: expected those of eager PyTorch, {(~agree).sum()} of {len(x)} differ")
    ours, theirs = interleaved(lambda: module(x), lambda: eager(x, module.network, score, module.group), rounds=rounds)
    free, first = Free().eval(), lambda vectors: vectors[:, 0]
    our_rest, their_rest = interleaved(
        lambda: equifast.canonicalize(x, free, None, group=module.group, score=first),
        lambda: eager(x, free, first, module.group),
        rounds=3 * rounds,
    )
    scale = 1e3 / len(x)
    return Times(scale * ours, theirs / ours, scale * our_rest, their_rest / our_rest)


def interleaved(
    *contenders: Callable[[], object], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median seconds of each contender by that clock, taking turns, after one round to warm up."""
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds + 1):
        for taken, contender in zip(seconds, contenders, strict=True):
            start = clock()
            contender()
            taken.append(clock() - start)
    return [statistics.median(taken[1:]) for taken in seconds]
