"""The contenders of `examples/paper/curves.py`: what stands beside each other minimizes the same."""

import importlib
from pathlib import Path

import pytest
import torch

from . import equiadapt

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages that are imported here


@pytest.fixture
def curves(monkeypatch):
    equiadapt()
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("paper.curves")


@pytest.mark.parametrize("training", [True, False])
def test_both_packages_have_one_loss_and_one_metric(curves, training):
    """EquiOptAdapt, C4, of equal weights: rotations of either package are exact there."""
    torch.manual_seed(0)
    ours, theirs = curves.Ours("equioptadapt", "C4"), curves.Published("equioptadapt", "C4")
    theirs.module.canonicalization_network.load_state_dict(ours.module.network.state_dict())
    with torch.no_grad():
        theirs.module.reference_vector.copy_(ours.module.reference)
    ours.train(training)
    theirs.train(training)
    x = torch.rand(16, 1, 28, 28)
    one, other = ours.loss(x), theirs.loss(x)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert ours.identity(x) == theirs.identity(x)
    one.backward()
    other.backward()
    gradients = (
        dict(network.named_parameters()) for network in (ours.module.network, theirs.module.canonicalization_network)
    )
    for (name, p), (_, q) in zip(*(found.items() for found in gradients), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-3, rtol=1e-2, msg=name)


@pytest.mark.parametrize("package", ["equifast", "equiadapt"])
@pytest.mark.parametrize("group", ["C4", "D4"])
def test_the_direct_method_learns_in_either_package(curves, package, group):
    """On images that are brighter at the top, where one step after another lowers the loss."""
    torch.manual_seed(0)
    contender = curves.PACKAGES[package]("equiadapt", group)
    optimizer = torch.optim.AdamW(contender.parameters(), lr=1e-2)
    x = torch.rand(16, 1, 28, 28) + torch.linspace(2, 0, 28)[:, None] + torch.linspace(0, 1, 28)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        losses.append(contender.loss(x))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
