"""The stand-ins for equiadapt's classes: by themselves, and beside the originals where those can be imported."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equifast import reference
from equifast.compat.equiadapt import (
    GroupEquivariantImageCanonicalization,
    OptimizedGroupEquivariantImageCanonicalization,
)
from equifast.nn import ConvNetwork


def options(group="C4", **changes):
    kind = {"C": "rotation", "D": "roto-reflection"}[group[0]]
    defaults = {"beta": 2.0, "input_crop_ratio": 0.8, "resize_shape": 32, "learn_ref_vec": True, "artifact_err_wt": 0}
    return {"group_type": kind, "num_rotations": int(group[1:]), **defaults, **changes}


def make(group="C4", shape=(3, 48, 48), **changes):
    torch.manual_seed(0)
    size = 32 if shape[0] > 1 else shape[1]
    network = ConvNetwork((shape[0], size, size), 4, 5, 2, 16)
    return OptimizedGroupEquivariantImageCanonicalization(network, options(group, **changes), shape)


@pytest.fixture
def x():
    coarse = torch.rand(6, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, (48, 48), mode="bicubic")


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_canonical_images_are_invariant_and_come_back(x, group):
    module = make(group).eval()
    with torch.no_grad():
        image = module(x)
        assert torch.equal(module.invert_canonicalization(image, induced_rep_type="scalar"), x)
        for h in range(module.group.order):
            moved = reference.act(x, torch.full((6,), h), group=group)
            # An antialiased resize rounds otherwise in another orientation, so a near tie may fall otherwise.
            assert (module(moved) - image).flatten(1).amax(1).eq(0).sum() >= 5


def test_state_is_that_of_published_checkpoints():
    keys = set(make().state_dict())
    network = {f"canonicalization_network.{key}" for key in ConvNetwork((3, 32, 32), 4, 5, 2, 16).state_dict()}
    assert keys == {"reference_vector"} | network
    assert make().reference_vector.shape == (1, 16)
    assert not make(learn_ref_vec=False).reference_vector.requires_grad


def test_targets_follow_and_stay_as_they_were(x):
    module = make("D4").eval()
    mask = torch.zeros(1, 48, 48, dtype=torch.bool)
    mask[:, 3:9, 5:20] = True
    box = torch.tensor([[5.0, 3.0, 20.0, 9.0]])
    targets = [{"boxes": box, "masks": mask, "labels": i} for i in range(6)]
    image, moved = module(x, targets)
    assert torch.equal(box, torch.tensor([[5.0, 3.0, 20.0, 9.0]])) and [t["labels"] for t in moved] == list(range(6))
    for target in moved:
        rows, columns = target["masks"][0].nonzero().unbind(1)
        expected = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
        assert torch.equal(target["boxes"][0], expected)
    assert module(x[:0], [])[1] == []


def test_losses(x):
    module = make("C8", artifact_err_wt=0.5)
    with pytest.raises(RuntimeError, match="call canonicalize first"):
        module.get_identity_metric()
    module(x)
    activations = module.canonicalization_info_dict["group_activations"]
    assert torch.equal(module.get_prior_regularization_loss(), F.cross_entropy(activations, torch.zeros(6).long()))
    assert module.get_identity_metric() == (activations.argmax(1) == 0).float().mean()
    vectors = module.canonicalization_info_dict["vector_out"]
    contrastive = reference.contrastive_loss(vectors, group="C8")
    assert module.get_optimization_specific_loss() > contrastive
    module.eval()(x)
    torch.testing.assert_close(module.get_optimization_specific_loss(), module.form.contrastive_loss())


def test_the_direct_method_and_both_numberings(x):
    class Scores(nn.Module):
        def forward(self, images):
            return torch.eye(8)[[0, 3, 5, 7, 4, 1]]

    def canonical(**kwargs):
        settings = SimpleNamespace(**options("D4"))
        return GroupEquivariantImageCanonicalization(Scores(), settings, (3, 48, 48), **kwargs)(x)

    ours = reference.act(x, torch.tensor([0, 3, 5, 7, 4, 1]), group="D4", inverse=True)
    assert torch.equal(canonical(), ours)
    # (F R^j)⁻¹ = R^−j F: flip first, then turn clockwise.
    first = [torch.rot90(x[2].flip(-1), -1, (1, 2)), torch.rot90(x[3].flip(-1), -3, (1, 2))]
    assert torch.equal(canonical(reflections_first=True)[2:4], torch.stack(first))


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({"group_type": "so2"}, (3, 48, 48), "group_type: expected one of rotation, roto-reflection, got 'so2'"),
        ({}, (48, 48), r"in_shape: expected \(C, H, W\), got \(48, 48\)"),
    ],
)
def test_what_is_wrong_is_named(changes, shape, message):
    with pytest.raises(ValueError, match=message):
        OptimizedGroupEquivariantImageCanonicalization(nn.Identity(), options(**changes), shape)
    with pytest.raises(ValueError, match="beta is missing"):
        OptimizedGroupEquivariantImageCanonicalization(
            nn.Identity(), {"group_type": "rotation", "num_rotations": 4}, (3, 48, 48)
        )


@pytest.mark.parametrize(("group", "shape"), [("C4", (3, 48, 48)), ("C8", (3, 48, 48)), ("C4", (1, 28, 28))])
def test_beside_the_original(group, shape):
    try:
        from equiadapt.images.canonicalization import discrete_group as published
        from equiadapt.images.canonicalization_networks.custom_nonequivariant_networks import ConvNetwork as Network
    except Exception as error:  # its torchvision may not fit this torch, which is no ImportError
        pytest.skip(f"equiadapt can't be imported: {error}")
    ours = make(group, shape, input_crop_ratio=0.75).eval()
    size = 32 if shape[0] > 1 else shape[1]
    settings = SimpleNamespace(**{**options(group, input_crop_ratio=0.75), "resize_shape": size})
    network = Network((shape[0], size, size), 4, 5, 2, 16)
    theirs = published.OptimizedGroupEquivariantImageCanonicalization(network, settings, shape).eval()
    ours.load_state_dict(theirs.state_dict())
    coarse = torch.rand(6, shape[0], 7, 7, generator=torch.Generator().manual_seed(1))
    x = F.interpolate(coarse, shape[1:], mode="bicubic")
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        ours.canonicalization_info_dict["group_element"], theirs.canonicalization_info_dict["group_element"]
    )
    a, b = ours.get_prior_regularization_loss(), theirs.get_prior_regularization_loss()
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    a, b = ours.get_optimization_specific_loss(), theirs.get_optimization_specific_loss()
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
