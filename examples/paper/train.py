"""Training that may be killed at any moment, and goes on to the same weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from . import methods
from .plan import Run
from .storage import Store

BATCH = 256


def train(run: Run, images: Tensor, labels: Tensor, store: Store) -> methods.Model:
    """Train the model of a run, from its last checkpoint or from the weights of its parent.

    There is a checkpoint after each epoch: weights, optimizer and schedule. An epoch draws all its random
    numbers from a seed of its own (`seed_of`), so there are no states of generators to keep.

    Args:
        images: (N, 1, 28, 28) float32.
        labels: (N,) int64.

    Raises:
        RuntimeError: where a checkpoint is of another budget, or that of the parent isn't finished.

    Returns:
        The trained model.
    """
    torch.manual_seed(seed_of(run.id, "weights"))
    model = methods.model(run)
    optimizer = torch.optim.AdamW(methods.rates(run, model))
    rates = [part["lr"] for part in optimizer.param_groups]
    batches = -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, run.epochs * batches, pct_start=0.1)
    done = 0
    settings = [run.epochs, len(images), BATCH, rates]
    if (state := store.load(run.id)) is not None:
        if state["settings"] != settings:
            raise RuntimeError(
                f"{run.id}: expected a checkpoint of {settings} (epochs, images, batch, rates), got one of "
                f"{state['settings']}; delete {store.checkpoints} and {store.results}"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        done = state["epochs"]
    elif run.parent is not None:
        inherit(model, run.parent, store)
    for epoch in range(done, run.epochs):
        torch.manual_seed(seed_of(run.id, f"epoch {epoch}"))
        model.train()
        for x, y in _batches(images, labels, f"{run.id}, epoch {epoch + 1} of {run.epochs}"):
            optimizer.zero_grad()
            methods.loss(run, model, x, y).backward()
            optimizer.step()
            schedule.step()
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        store.save(run.id, states | {"epochs": epoch + 1, "settings": settings})
    return model.eval()


def seed_of(run: str, purpose: str) -> int:
    """A seed for one purpose of one run, the same in every process."""
    return zlib.crc32(f"{run}, {purpose}".encode())


def inherit(model: methods.Model, parent: Run, store: Store) -> None:
    """Take over the weights of a parent: those of the classifier, and of the canonicalizer if the parent has one."""
    state = store.load(parent.id)
    if state is None or state["epochs"] < parent.epochs:
        raise RuntimeError(f"{parent.id}: expected a finished checkpoint, got none or an unfinished one")
    missing, unexpected = model.load_state_dict(state["model"], strict=False)
    if unexpected or any(not name.startswith("canonicalizer.") for name in missing):
        raise RuntimeError(f"{parent.id}: its checkpoint doesn't fit; missing {missing}, unexpected {unexpected}")


def _batches(images: Tensor, labels: Tensor, title: str) -> Iterator[tuple[Tensor, Tensor]]:
    """All images once, in random order, with a progress bar."""
    parts = torch.randperm(len(images)).split(BATCH)
    for part in tqdm(parts, desc=title, leave=False, ncols=100, mininterval=0.5):
        yield images[part], labels[part]
