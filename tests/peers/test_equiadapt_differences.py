"""Every deliberate difference from equiadapt, one test each: what it does, and what the stand-in does instead.

docs/equiadapt.md names these tests. Where equiadapt changes, a test here fails, and the page has to follow.
"""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equifast.compat.equiadapt as ours
from equifast import reference

from .. import peers
from .test_equiadapt_parity import Scores, disc, pair, planes, settings, smooth

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages compared with

ROOT = Path(__file__).resolve().parents[2]
SQUARE = (3, 48, 48)


@pytest.fixture(scope="module")
def theirs():
    return peers.equiadapt()


class Fixed(nn.Module):
    """A network of the direct method that gives every batch the same activations."""

    def __init__(self, elements, order, kind="rotation"):
        super().__init__()
        self.activations = torch.eye(order)[elements]
        self.group_type, self.num_rotations = kind, order if kind == "rotation" else order // 2

    def forward(self, x):
        return self.activations[: len(x)]


def direct(package, elements, order, kind="rotation", shape=SQUARE, **options):
    module = package.GroupEquivariantImageCanonicalization
    return module(Fixed(elements, order, kind), settings(order, **options), shape).eval()


def targets(shape=SQUARE):
    boxes = torch.tensor([[5.0, 3.0, 20.0, 9.0]])
    masks = torch.zeros(1, *shape[1:], dtype=torch.uint8)
    masks[:, 3:9, 5:20] = 1
    return {"boxes": boxes, "masks": masks}


def box_of(mask):
    rows, columns = mask.nonzero().unbind(1)
    return torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()


# Reflections.


def test_canonical_images_of_reflections(theirs):
    x = smooth(8, SQUARE)
    orbit = reference.orbit(x[:1], "D4")
    wrong = []
    for package in (theirs, ours):
        images = direct(package, torch.arange(8), 8, "roto-reflection")(x[:1].expand(8, -1, -1, -1))
        wrong.append([e for e in range(8) if not torch.allclose(images[e], orbit[e], atol=1e-4)])
    assert wrong == [[5, 7], []]


def test_inverses_of_reflections(theirs):
    x = smooth(8, SQUARE)
    for package, expected in ((theirs, x.flip(-1)), (ours, x)):
        module = direct(package, torch.arange(8), 8, "roto-reflection")
        back = module.invert_canonicalization(module(x), induced_rep_type="scalar")
        torch.testing.assert_close(back, expected, rtol=0, atol=1e-4)


def test_regular_representation_of_reflections(theirs):
    x, e = torch.rand(8, 8, 5, 5), torch.arange(8)
    info = {"num_rotations": 4, "num_group": 8}
    element = {"rotation": e % 4 * 90.0, "reflection": (e >= 4).float()}
    right = reference.act(x, e, group="D4", representation="regular", padding_mode="zeros")
    a, b = (package.get_action_on_image_features(x, info, element, "regular") for package in (theirs, ours))
    assert torch.equal(b, right)
    assert not any(torch.allclose(a[i], right[i], atol=1e-3) for i in range(8))


def test_targets_of_reflections(theirs):
    x = smooth(2, SQUARE)
    for package, right in ((theirs, False), (ours, True)):
        # The first image is canonical as it is; the second is reflected.
        module = direct(package, torch.tensor([0, 4]), 8, "roto-reflection")
        _, moved = module(x, [targets(), targets()])
        before = targets()
        assert torch.equal(moved[0]["masks"], before["masks"]) == right
        assert torch.equal(moved[1]["masks"], before["masks"].flip(-1))


def test_numbering_of_reflections(theirs):
    """The plain network numbers "turn, then reflect"; the choice is told as "reflect, then turn"."""
    torch.manual_seed(0)
    network = ours.CustomEquivariantNetwork(SQUARE, 4, 5, "roto-reflection", 4, 2, device="cpu")
    module = ours.GroupEquivariantImageCanonicalization(network, settings(4), SQUARE).eval()
    x = smooth(6, SQUARE)
    image = module(x)
    choice = module.canonicalization_info_dict["group_element"]
    element = (choice["rotation"] / 90).long() + 4 * choice["reflection"].long()
    assert torch.equal(reference.act(image, element, group="D4"), x)
    for h in range(8):
        moved = reference.act(x, torch.full((6,), h), group="D4")
        torch.testing.assert_close(module(moved), image, rtol=0, atol=1e-5)


# Elements.


def test_quarter_turns_are_exact(theirs):
    x = smooth(4, SQUARE)
    expected = torch.stack([torch.rot90(x[k], -k, (1, 2)) for k in range(4)])
    assert torch.equal(direct(ours, torch.arange(4), 4)(x), expected)
    assert not torch.equal(direct(theirs, torch.arange(4), 4)(x), expected)


def test_angles_in_training_are_exact(theirs):
    results = []
    for module in pair(theirs, "optimised", 8, SQUARE):
        module.train()(smooth(64, SQUARE))
        angles = module.canonicalization_info_dict["group_element"]["rotation"]
        results.append(angles.detach() % 45)
    assert results[0].any() and not results[1].any()


def test_rolls_are_rounded(theirs):
    """1/7 of 360° is a little less than a seventh in floating point, and is cut down to no roll there."""
    x = torch.rand(7, 7, 5, 5)
    info, element = {"num_rotations": 7, "num_group": 7}, {"rotation": torch.linspace(0, 360, 8)[:7]}
    right = reference.act(x, torch.arange(7), group="C7", representation="regular", padding_mode="zeros")
    a, b = (package.get_action_on_image_features(x, info, element, "regular") for package in (theirs, ours))
    torch.testing.assert_close(b, right, rtol=0, atol=1e-5)
    assert not torch.allclose(a, right, atol=1e-2)


def test_derivative_on_the_pixel_grid(theirs):
    """At multiples of 90° samples fall on pixels, and the slopes on either side differ. Here it is their mean, which is
    what a central difference tends to; there it is the side that rounding errors choose."""
    x = smooth(4, SQUARE) * disc(SQUARE)
    turned = smooth(4, SQUARE, seed=2) * disc(SQUARE)
    angles = torch.arange(4) * 90.0

    def loss(images):
        return ((images - turned) ** 2).sum((1, 2, 3))

    kinds = {}
    for package in (theirs, ours):
        made = Fixed(torch.arange(4), 4)
        made.activations.requires_grad_()
        module = package.GroupEquivariantImageCanonicalization(made, settings(4), SQUARE).train()
        images = module(x)
        angle = module.canonicalization_info_dict["group_element"]["rotation"]
        (kinds[package],) = torch.autograd.grad(loss(images).sum(), angle)
    from kornia.geometry import rotate

    pad = F.pad(x, [24] * 4, mode="replicate")
    step = 0.05
    moved = [loss(rotate(pad, -angles + sign * step)[..., 24:-24, 24:-24]) for sign in (-1, 1)]
    central = (moved[0] - moved[1]) / (2 * step)
    torch.testing.assert_close(kinds[ours], central, rtol=0.02, atol=0.02)
    assert (kinds[theirs] - central).abs().max() > 0.1 * central.abs().max()


def test_activations_that_are_not_finite(theirs):
    activations = torch.tensor([[0.0, float("nan"), 2.0, 1.0], [0.0, 3.0, 2.0, 1.0]])
    made = []
    for package in (theirs, ours):
        module = direct(package, torch.tensor([0, 0]), 4)
        module.canonicalization_network.activations = activations
        module(smooth(2, SQUARE))
        made.append(module.canonicalization_info_dict["group_element"]["rotation"].tolist())
    assert made == [[90.0, 90.0], [0.0, 90.0]]


# Targets.


def test_boxes_are_hulls_of_four_corners(theirs):
    box = torch.tensor([[16.0, 16.0, 32.0, 32.0]])
    a, b = (package.images.utils.rotate_boxes(box, torch.tensor(45.0), 48)[0] for package in (theirs, ours))
    half = 16 / 2**0.5
    assert a[2] - a[0] < 1e-3  # a square on its corner, without any width
    torch.testing.assert_close(b, torch.tensor([24 - half, 24 - half, 24 + half, 24 + half]))
    _, moved = direct(ours, torch.tensor([1]), 8)(smooth(1, SQUARE), [{**targets(), "boxes": box}])
    torch.testing.assert_close(moved[0]["boxes"][0], b)


def test_boxes_of_images_that_are_not_square(theirs):
    shape = (3, 48, 64)
    for package, right in ((theirs, False), (ours, True)):
        _, moved = direct(package, torch.tensor([2]), 4, shape=shape)(smooth(1, shape), [targets(shape)])
        assert torch.allclose(moved[0]["boxes"][0], box_of(moved[0]["masks"][0]), atol=1e-3) == right


def test_tensors_of_targets_stay(theirs):
    for package, kept in ((theirs, False), (ours, True)):
        given = targets()
        box, before = given["boxes"], given["boxes"].clone()
        _, moved = direct(package, torch.tensor([4]), 8, "roto-reflection")(smooth(1, SQUARE), [given])
        assert torch.equal(box, before) == kept
        assert moved[0] is given  # the dict is the caller's own in both


def test_no_targets(theirs):
    x = torch.rand(0, 3, 48, 48)
    module = direct(ours, torch.arange(0), 4)
    image, moved = module(x, [])
    assert image.shape == x.shape and moved == []
    assert isinstance(direct(theirs, torch.tensor([0]), 4)(smooth(1, SQUARE), []), torch.Tensor)
    assert isinstance(theirs.IdentityCanonicalization()(x, []), torch.Tensor)
    assert ours.IdentityCanonicalization()(x, []) == (x, [])


# Networks and losses.


def test_artifact_term_is_for_training(theirs):
    calls = []
    for module in pair(theirs, "optimised", 8, SQUARE, artifact_err_wt=3.0):
        module.eval()
        rows = []
        module.canonicalization_network.register_forward_hook(lambda m, i, o, rows=rows: rows.append(len(o)))
        module(smooth(4, SQUARE))
        calls.append((sum(rows), "vector_out_dummy" in module.canonicalization_info_dict))
    assert calls == [(64, True), (32, False)]


def test_artifact_term_of_exact_rotations(theirs):
    """A C4 on squares makes no artifacts: there is no second pass, and no second update of running statistics."""
    rows, losses = [], []
    for module in pair(theirs, "optimised", 4, SQUARE, artifact_err_wt=3.0):
        module.train()
        rows.append(0)

        def count(m, inputs, output):
            rows[-1] += len(output)

        module.canonicalization_network.register_forward_hook(count)
        module(smooth(4, SQUARE))
        losses.append(module.get_optimization_specific_loss())
        tracked = module.canonicalization_network.norm.num_batches_tracked
        assert tracked == len(losses) % 2 + 1
    assert rows == [32, 16]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)


def test_dropout_drops_features(theirs):
    """There it drops whole rows, so that half of an orbit gets the bias of the last layer for its vectors."""
    share = []
    for package in (theirs, ours):
        torch.manual_seed(0)
        network = package.ConvNetwork((3, 32, 32), 4, 5, 2, 16).train()
        out = network(torch.rand(64, 3, 32, 32))
        share.append((out == network.final_fc[3].bias).all(1).float().mean().item())
    assert share[0] > 0.3 and share[1] == 0


def test_a_new_network_has_seen_nothing(theirs):
    tracked = [package.ConvNetwork((3, 32, 32), 4, 5).enc_network[1].num_batches_tracked for package in (theirs, ours)]
    assert tracked == [1, 0]


def test_a_network_too_deep_for_its_images(theirs):
    with pytest.raises(ValueError, match="Expected more than 1 value per channel|too small") as there:
        theirs.ConvNetwork((3, 96, 96), 16, 7, 4)
    with pytest.raises(ValueError, match="in_shape: 96×96 is too small for 4 layers|too small") as here:
        ours.ConvNetwork((3, 20, 20), 16, 7, 4)
    assert "in_shape" not in str(there.value) and "in_shape" in str(here.value)


def test_the_plain_network_says_its_group(theirs):
    arguments = {"in_shape": SQUARE, "out_channels": 4, "kernel_size": 5, "device": "cpu"}
    with pytest.raises(AttributeError, match="group_type"):
        theirs.GroupEquivariantImageCanonicalization(theirs.CustomEquivariantNetwork(**arguments), settings(4), SQUARE)
    module = ours.GroupEquivariantImageCanonicalization(ours.CustomEquivariantNetwork(**arguments), settings(4), SQUARE)
    assert module.group_info_dict == {"num_rotations": 4, "num_group": 4}


@pytest.mark.parametrize("where", ["hyperparameters", "network_hyperparams"])
def test_the_group_may_be_in_the_hyperparameters(theirs, where):
    """For a network that doesn't say what its group is, such as the package's own plain one."""
    network = theirs.CustomEquivariantNetwork(SQUARE, 4, 5, "rotation", 8, device="cpu")
    options = settings(8)
    if where == "network_hyperparams":
        options = SimpleNamespace(**vars(settings(4)), network_hyperparams={"num_rotations": 8})
        del options.num_rotations
    assert ours.GroupEquivariantImageCanonicalization(network, options, SQUARE).num_group == 8
    del options.group_type
    with pytest.raises(ValueError, match="group_type: neither the canonicalization network nor"):
        ours.GroupEquivariantImageCanonicalization(network, options, SQUARE)


# Sizes.


def test_crops_have_the_centre_of_the_image(theirs):
    """0.8 of 48 is 39, half a pixel off the centre. Then an image and its half turn are seen differently."""
    x = smooth(2, SQUARE)
    sizes, same = [], []
    for module in pair(theirs, "direct", 4, SQUARE, input_crop_ratio=0.8):
        see = module.transformations_before_canonicalization_network_forward
        module.resize_shape = 40
        module.resize_canonization = nn.Identity()
        sizes.append(see(x).shape[2])
        same.append(torch.allclose(see(x.flip(2, 3)), see(x).flip(2, 3), atol=1e-5))
    assert sizes == [39, 40] and same == [False, True]


def test_members_have_the_centre_of_the_image(theirs):
    """A crop of 36×50 is resized to 30×41 there. The middle 30 columns of 41 are half a pixel off the centre."""
    shape = (3, 48, 66)
    widths = []
    for module in pair(theirs, "optimised", 4, shape, input_crop_ratio=0.75, resize_shape=30):
        small = module.transformations_before_canonicalization_network_forward(smooth(1, shape))
        widths.append(small.shape[3])
    assert widths == [41, 42]


def test_tall_images_keep_their_content(theirs):
    """The margin for turning is half the width on every side: too little for an image that is twice as tall."""
    shape = (3, 64, 24)
    x = torch.ones(1, *shape)
    for package, filled in ((theirs, False), (ours, True)):
        image = direct(package, torch.tensor([1]), 4, shape=shape)(x)
        assert torch.allclose(image, torch.ones_like(image), atol=1e-5) == filled


def test_images_of_another_size(theirs):
    x = smooth(1, (3, 60, 60))
    a, b = (direct(package, torch.tensor([1]), 4)(x) for package in (theirs, ours))
    assert a.shape[2:] == (48, 48)
    assert torch.equal(b, torch.rot90(x, -1, (2, 3)))


def test_crop_ratio_is_a_share(theirs):
    direct(theirs, torch.tensor([0]), 4, input_crop_ratio=1.5)
    with pytest.raises(ValueError, match="input_crop_ratio: expected more than 0 and at most 1, got 1.5"):
        direct(ours, torch.tensor([0]), 4, input_crop_ratio=1.5)
    with pytest.raises(ValueError, match="resize_shape: expected an int or .H, W., got None"):
        direct(ours, torch.tensor([0]), 4, resize_shape=None)


# Calls.


def test_methods_before_the_first_call(theirs):
    a, b = pair(theirs, "optimised", 4, SQUARE)
    with pytest.raises(AttributeError, match="device"):
        a.get_groupelement(smooth(1, SQUARE))
    b.get_groupelement(smooth(1, SQUARE))
    assert b.device == torch.device("cpu")


def test_losses_before_the_first_call(theirs):
    for module, error in zip(pair(theirs, "optimised", 4, SQUARE), (KeyError, RuntimeError), strict=True):
        for name in ("get_identity_metric", "get_prior_regularization_loss", "get_optimization_specific_loss"):
            with pytest.raises(error):
                getattr(module, name)()


def test_vector_representation(theirs):
    info, element = {"num_rotations": 4, "num_group": 4}, {"rotation": torch.tensor([90.0])}
    x = torch.rand(1, 2, 5, 5)
    with pytest.raises(NotImplementedError):
        theirs.get_action_on_image_features(x, info, element, "vector")
    expected = reference.act(x, torch.tensor([1]), group="C4", representation="vector")
    assert torch.equal(ours.get_action_on_image_features(x, info, element, "vector"), expected)


def test_helpers_change_nothing_in_place(theirs):
    for package, kept in ((theirs, False), (ours, True)):
        boxes = torch.tensor([[5.0, 3.0, 20.0, 9.0]])
        before = boxes.clone()
        package.images.utils.flip_boxes(boxes, 48)
        assert torch.equal(boxes, before) == kept


def test_other_estimators(theirs):
    """A choice of gradient that there isn't in the package, in training alone."""
    x = planes(4, SQUARE)
    for estimator in ("straight_through", "soft", "gumbel", "none"):
        torch.manual_seed(0)
        module = ours.OptimizedGroupEquivariantImageCanonicalization(
            Scores(3, 16), settings(4), SQUARE, estimator=estimator
        )
        assert module.train()(x).requires_grad == (estimator != "none")
        image = module.eval()(x)
        assert not image.requires_grad and torch.equal(module.form.invert(image), x)


# Not provided.


def test_not_provided(theirs):
    for name in (
        "ContinuousGroupCanonicalization",
        "ContinuousGroupImageCanonicalization",
        "SteerableImageCanonicalization",
        "OptimizedSteerableImageCanonicalization",
        "ESCNNSteerableNetwork",
    ):
        with pytest.raises(NotImplementedError, match=f"{name}: canonicalization over continuous groups"):
            getattr(ours, name)(nn.Identity(), settings(4), SQUARE)
    for name in ("LieParameterization", "gram_schmidt", "pointcloud", "nbody"):
        assert not hasattr(ours, name)


def test_e2cnn_is_asked_for_only_where_it_is_needed(monkeypatch):
    import sys

    networks = "equifast.compat.equiadapt.images.canonicalization_networks"
    monkeypatch.delitem(sys.modules, f"{networks}.escnn_networks", raising=False)
    monkeypatch.setitem(sys.modules, "e2cnn", None)
    monkeypatch.setitem(sys.modules, "e2cnn.nn", None)
    with pytest.raises(ImportError, match="these networks need e2cnn: pip install e2cnn"):
        from equifast.compat.equiadapt.images.canonicalization_networks import ESCNNEquivariantNetwork  # noqa: F401


# The page.


def test_the_page_names_every_test():
    """Each test that docs/equiadapt.md names exists, and each test of this file is named there."""
    page = (ROOT / "docs" / "equiadapt.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    existing = {
        name
        for file in Path(__file__).parent.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert named - existing == set()
    here = set(re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.MULTILINE))
    assert here - named == {"test_the_page_names_every_test"}
