"""The stand-ins for equiadapt's classes, by themselves. The tests beside the originals are in test_equiadapt_*.py."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equifast.compat.equiadapt as compat
from equifast import reference
from equifast.compat.equiadapt import (
    GroupEquivariantImageCanonicalization,
    OptimizedGroupEquivariantImageCanonicalization,
)
from equifast.nn import ConvNetwork

from .. import peers


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


def test_state_before_and_after_a_call(x):
    module = make("D4")
    assert module.canonicalization_info_dict == {} and module.form is None
    assert (module.group_type, module.num_rotations, module.num_group) == ("roto-reflection", 4, 8)
    module(x)
    assert set(module.canonicalization_info_dict) == {"vector_out", "group_element", "group_activations"}
    assert torch.equal(
        module.form.vectors.transpose(0, 1).flatten(0, 1), module.canonicalization_info_dict["vector_out"]
    )


@pytest.mark.parametrize("group", ["C6", "D4", "D6"])
def test_gradients_of_inverted_outputs(x, group):
    """The angle and the flag of an inversion get the derivatives that differences give, in double precision."""
    from equifast.compat.equiadapt.images._action import _inner, act_by_angle, element_of
    from equifast.groups import as_group

    group = as_group(group)
    rows = torch.arange(48.0, dtype=torch.float64)
    images = (x[:4].double() * 0 + rows[:, None] * 0.3 + rows * 0.2 + x[:4].double().mean((2, 3), keepdim=True)) / 9
    window = ((rows[:, None] - 23.5) ** 2 + (rows - 23.5) ** 2 < 300).double()
    grad = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * window
    for ids in (torch.arange(4), torch.arange(4) + group.order - 4):
        choice = {"rotation": ids % group.n * (360.0 / group.n), "reflection": (ids >= group.n).double()}
        assert torch.equal(element_of(choice, group), ids)
        image = act_by_angle(images, choice, group, padding_mode="zeros", inverse=False)
        found = _inner(images, image, grad, ids, group, "zeros", False)

        def turned(angles, flags):
            cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
            source = torch.where(flags[:, None, None, None] > 0, images.flip(-1), images)
            dx, dy = rows - 23.5, (rows - 23.5)[:, None]
            grid = torch.stack((cos * dx - sin * dy, sin * dx + cos * dy), -1) / 23.5
            return F.grid_sample(source, grid, align_corners=True)

        angles, step = (choice["rotation"] * torch.pi / 180).double(), 1e-5
        flags = choice["reflection"]
        by_angle = (turned(angles + step, flags) - turned(angles - step, flags)) / (2 * step)
        torch.testing.assert_close(found[:, 0], (grad * by_angle).sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
        if group.reflections:
            by_flag = turned(angles, flags * 0 + 1) - turned(angles, flags * 0)
            torch.testing.assert_close(found[:, 1], (grad * by_flag).sum((1, 2, 3)), rtol=1e-4, atol=1e-4)


def test_two_layers_unless_told_otherwise():
    assert len(compat.ConvNetwork((3, 32, 32), 4, 5).enc_network) == 6


def test_a_missing_peer_fails_where_it_is_required(monkeypatch):
    monkeypatch.setattr(peers.published, "package", lambda: (None, "no such thing"))
    monkeypatch.setenv("EQUIFAST_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match="can't be imported: no such thing"):
        peers.equiadapt()
    monkeypatch.delenv("EQUIFAST_REQUIRE_PEERS")
    with pytest.raises(pytest.skip.Exception, match="can't be imported: no such thing"):
        peers.equiadapt()


def test_an_estimator_that_there_is_not():
    with pytest.raises(ValueError, match="estimator: expected one of .*, got 'guess'"):
        OptimizedGroupEquivariantImageCanonicalization(nn.Identity(), options(), (3, 48, 48), estimator="guess")
