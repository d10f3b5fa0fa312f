"""Losses against what they say they equal."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equifast import reference
from equifast.losses import artifact_loss, contrastive_loss, prior_loss
from equifast.nn import ConvNetwork, fuse_first_layer


def test_prior_is_cross_entropy_with_the_identity():
    a = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prior_loss(a), F.cross_entropy(a, torch.zeros(5, dtype=torch.int64)))
    target = torch.tensor([0, 7, 3, 3, 1])
    torch.testing.assert_close(prior_loss(a, target, beta=3.0), F.cross_entropy(3 * a, target))


def test_prior_of_cosines_has_the_documented_floor_unless_beta_lifts_it():
    best = torch.tensor([[1.0, -1.0, -1.0, -1.0]])
    assert prior_loss(best).item() == pytest.approx(math.log(1 + 3 * math.exp(-2)))
    assert prior_loss(best, beta=20.0).item() < 1e-6


@pytest.mark.parametrize("beta", [None, 2.0, 0.0, -1.0])
def test_prior_leaves_masked_elements_out_and_one_bad_sample_to_itself(beta):
    a = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    padded = F.pad(a, (0, 2), value=-math.inf).requires_grad_()
    expected = prior_loss(a.requires_grad_(), beta=beta)
    torch.testing.assert_close(prior_loss(padded, beta=beta), expected)
    (of_padded,) = torch.autograd.grad(prior_loss(padded, beta=beta), padded)
    (of_a,) = torch.autograd.grad(expected, a)
    torch.testing.assert_close(of_padded, F.pad(of_a, (0, 2)))
    broken = padded.detach().index_fill(0, torch.tensor(1), math.nan).requires_grad_()
    loss = prior_loss(broken, beta=beta)
    assert loss.isnan()
    (of_broken,) = torch.autograd.grad(loss, broken)
    torch.testing.assert_close(of_broken[[0, 2, 3]], of_padded[[0, 2, 3]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_prior_sums_in_a_wide_type(dtype):
    a = torch.randn(64, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = F.cross_entropy(a.double(), torch.zeros(64, dtype=torch.int64)).to(dtype)
    assert prior_loss(a).dtype == dtype
    torch.testing.assert_close(prior_loss(a), expected)


@pytest.mark.parametrize(
    ("activations", "target", "error", "message"),
    [
        (torch.zeros(3), None, ValueError, r"activations: expected \(B, E\), got \(3,\)"),
        (torch.zeros(3, 4).long(), None, TypeError, "activations: .*int64"),
        (torch.zeros(3, 4), torch.zeros(2).long(), ValueError, r"target: expected \(3,\), got \(2,\)"),
        (torch.zeros(3, 4), torch.zeros(3), TypeError, "target: .*float32"),
        (torch.zeros(3, 4), torch.tensor([0, 4, 1]), ValueError, r"target: expected ids in \[0, 4\), got 4"),
        (torch.zeros(3, 4), torch.tensor([0, -100, 1]), ValueError, r"target: .* got -100"),
    ],
)
def test_prior_names_what_is_wrong(activations, target, error, message):
    with pytest.raises(error, match=message):
        prior_loss(activations, target)


@pytest.mark.parametrize("normalize", [False, True])
def test_contrastive_takes_either_layout(normalize):
    v = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    unit = F.normalize(v, dim=-1) if normalize else v
    gram = torch.einsum("bed,bhd->beh", unit, unit).abs()
    expected = sum(gram[:, e, h].sum() for e in range(4) for h in range(4) if e != h) / (3 * 16)
    torch.testing.assert_close(contrastive_loss(v, normalize=normalize), expected)
    rows = v.transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(contrastive_loss(rows, group="C4", normalize=normalize), expected)
    torch.testing.assert_close(contrastive_loss(v, group="D2", normalize=normalize), expected)


def test_contrastive_on_unit_vectors_does_not_reward_shrinking():
    v = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(contrastive_loss(0.1 * v), 0.01 * contrastive_loss(v))
    torch.testing.assert_close(contrastive_loss(0.1 * v, normalize=True), contrastive_loss(v, normalize=True))


def test_contrastive_names_what_is_wrong():
    with pytest.raises(ValueError, match="group: needed"):
        contrastive_loss(torch.zeros(12, 6))
    with pytest.raises(ValueError, match=r"vectors: expected \(B, 8, d\) for C8, got \(3, 4, 6\)"):
        contrastive_loss(torch.zeros(3, 4, 6), group="C8")


class Counting(nn.Module):
    """A small network that counts its calls and rows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(5))
        self.rows = []

    def forward(self, x):
        self.rows.append(x.shape[0])
        return self.layers(x)


@pytest.fixture
def images():
    return torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(4))


def test_artifact_equals_its_definition_and_reuses_vectors(images):
    network = Counting()
    ours = artifact_loss(images, network, group="C8", generator=torch.Generator().manual_seed(7))
    assert network.rows == [24, 24]
    element = torch.randint(8, (24,), generator=torch.Generator().manual_seed(7))
    members = reference.orbit(images, "C8")
    back = reference.act(reference.act(members, element, group="C8", inverse=True), element, group="C8")
    vectors = network(members)
    expected = (network(back) - vectors).square().mean()
    torch.testing.assert_close(ours, expected)
    assert ours > 1e-5

    network.rows.clear()
    for known in (vectors, vectors.unflatten(0, (8, 3)).transpose(0, 1)):
        generator = torch.Generator().manual_seed(7)
        again = artifact_loss(images, network, group="C8", vectors=known, generator=generator)
        torch.testing.assert_close(again, expected)
    assert network.rows == [24, 24]


def test_artifact_vanishes_where_nothing_is_interpolated(images):
    network = Counting()
    vectors = network(reference.orbit(images, "D4"))
    for known in (None, vectors):
        assert artifact_loss(images, network, group="D4", vectors=known).item() == 0
    assert network.rows == [24]
    artifact_loss(images, network, group="D4", vectors=vectors).backward()
    assert artifact_loss(images[..., :7], network, group="D2", padding_mode="zeros").item() == 0
    network.layers = nn.Flatten()
    assert artifact_loss(images[..., :7], network, group="D4").item() > 0


def test_artifact_trains_the_network(images):
    network = Counting()
    artifact_loss(images, network, group="C8").backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters() if p.dim() > 1)


def test_artifact_names_what_is_wrong(images):
    with pytest.raises(ValueError, match=r"vectors: expected \(24, 5\).*got \(12, 5\)"):
        artifact_loss(images, Counting(), group="C8", vectors=torch.zeros(12, 5))
    network = ConvNetwork((2, 8, 8), 4, 3, 1, 5)
    with pytest.raises(ValueError, match="network: .*fused"):
        artifact_loss(images, fuse_first_layer(network, "C8"), group="C8")
