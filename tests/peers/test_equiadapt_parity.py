"""The stand-ins beside equiadapt itself: values and gradients, in training and in evaluation, method by method."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equifast.compat.equiadapt as ours

from .. import peers
from .alike import GROUPS, TOLERANCE, settings, smooth

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages compared with

SHAPES = [(3, 48, 48), (3, 48, 64), (3, 64, 48), (1, 28, 28)]


@pytest.fixture(scope="module")
def theirs():
    return peers.equiadapt()


class Scores(nn.Module):
    """A network of either method: its output has ``out_vector_size`` numbers. There is no dropout, see the page."""

    def __init__(self, channels, size, **attributes):
        super().__init__()
        self.first, self.norm = nn.Conv2d(channels, 6, 5, 2), nn.BatchNorm2d(6)
        self.second, self.last = nn.Conv2d(6, 8, 5, 2), nn.Linear(8, size, bias=False)
        self.out_vector_size = size
        self.__dict__.update(attributes)

    def forward(self, x):
        y = F.gelu(self.second(F.gelu(self.norm(self.first(x)))))
        # Right minus left: a plain mean is much the same for all images, and so would be the choice.
        return self.last((y * torch.linspace(-9, 9, y.shape[3])).mean((2, 3)))


def planes(count, shape, seed=3):
    """Images with one slope everywhere, where a derivative by the angle has one value; see docs/equiadapt.md."""
    rows, columns = (torch.arange(n) - (n - 1) / 2 for n in shape[1:])
    slopes = torch.randn(2, count, shape[0], 1, 1, generator=torch.Generator().manual_seed(seed)) / 20
    return slopes[0] * rows[:, None] + slopes[1] * columns + 0.3


def disc(shape):
    """1 around the centre, and 0 where an edge may come by a rotation."""
    rows, columns = (torch.arange(n) - (n - 1) / 2 for n in shape[1:])
    return (rows[:, None] ** 2 + columns**2 < (0.4 * min(shape[1:])) ** 2).float()


def pair(theirs, method, n, shape, **changes):
    """The same canonicalizer of both packages, with the same weights."""
    torch.manual_seed(0)
    if method == "direct":
        network = Scores(shape[0], n, group_type="rotation", num_rotations=n)
        name = "GroupEquivariantImageCanonicalization"
    else:
        network, name = Scores(shape[0], 16), "OptimizedGroupEquivariantImageCanonicalization"
    made = []
    for package in (theirs, ours):
        torch.manual_seed(5)
        made.append(getattr(package, name)(copy.deepcopy(network), settings(n, **changes), shape))
    assert [key for key, _ in made[0].state_dict().items()] == [key for key, _ in made[1].state_dict().items()]
    return made


def gradients(module, loss):
    parameters = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    )


def assert_gradients(a, b):
    assert a.norm() > 1e-6
    assert (a - b).norm() < 1e-4 * a.norm()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("n", GROUPS)
@pytest.mark.parametrize("method", ["optimised", "direct"])
def test_everything(theirs, method, n, shape, training):
    weight = 3.0 if training else 0
    x, channels = planes(5, shape), torch.linspace(1, 2, n * shape[0])[:, None, None]
    task = disc(shape) * planes(5, shape, seed=7)
    results = []
    for module in pair(theirs, method, n, shape, artifact_err_wt=weight):
        module.train(training)
        assert module.canonicalization_info_dict == {}
        torch.manual_seed(9)
        image = module(x)
        back = module.invert_canonicalization(image.detach() * 2, induced_rep_type="scalar")
        info = module.canonicalization_info_dict
        values = {**info, "image": image, "back": back, "metric": module.get_identity_metric()}
        losses = {"prior": module.get_prior_regularization_loss()}
        if method == "optimised":
            losses["optimisation"] = module.get_optimization_specific_loss()
        values |= losses
        if not training:
            stacked = image.repeat(1, n, 1, 1) * channels
            values["regular"] = module.invert_canonicalization(stacked)
        # The choice passes gradients of a task in training alone.
        assert image.requires_grad == back.requires_grad == training
        if training:
            losses |= {"task": (image * task).sum(), "inverted task": (back * task).sum()}
        results.append((values, {name: gradients(module, loss) for name, loss in losses.items()}))
    (a, a_gradients), (b, b_gradients) = results
    assert a["group_element"]["rotation"].unique().numel() > 1
    # A dummy of exact rotations is the vector itself here, and there within rounding.
    torch.testing.assert_close(b, a, **TOLERANCE)
    assert a_gradients.keys() == b_gradients.keys()
    for name in a_gradients:
        assert_gradients(a_gradients[name], b_gradients[name])


@pytest.mark.parametrize("n", GROUPS)
def test_gradients_through_the_regular_representation(theirs, n):
    """In the package itself an angle a little too low rolls channels by one too few, so its angles are made exact."""
    shape = (3, 48, 48)
    task = disc(shape) * planes(5, (3 * n, 48, 48), seed=7)
    features, results = planes(5, (3 * n, 48, 48), seed=8), []
    for module in pair(theirs, "optimised", n, shape):
        module.train()(planes(5, shape))
        choice = module.canonicalization_info_dict["group_element"]
        angle = choice["rotation"]
        exact = (angle.detach() / 360 * n).round() * 360 / n
        choice["rotation"] = angle + (exact + 1e-4 - angle.detach())
        out = module.invert_canonicalization(features, induced_rep_type="regular")
        results.append((out, gradients(module, (out * task).sum())))
    torch.testing.assert_close(results[1][0] * disc(shape), results[0][0] * disc(shape), rtol=0, atol=1e-3)
    assert_gradients(results[0][1], results[1][1])


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize("n", GROUPS)
def test_targets(theirs, n, shape):
    """Masks of every angle; boxes of multiples of 90° on squares, as others differ on purpose."""
    x = smooth(8, shape)
    height, width = shape[1:]
    results = []
    for module in pair(theirs, "optimised", n, shape):
        module.eval()
        targets = []
        for i in range(8):
            boxes = torch.tensor([[5.0 + i, 3.0, 30.0, 17.0], [11.0, 12.0, 40.0, 40.0 - i]])
            masks = torch.zeros(2, height, width, dtype=torch.uint8)
            masks[0, 3:17, 5 + i : 30], masks[1, 12 : 40 - i, 11:40] = 1, 1
            targets.append({"boxes": boxes, "masks": masks, "labels": torch.tensor([i, 1])})
        image, moved = module(x, targets)
        assert moved is targets and set(moved[0]) == {"boxes", "masks", "labels"}
        results.append((image, moved, module.canonicalization_info_dict["group_element"]["rotation"]))
    (image, a, angles), (mine, b, _) = results
    torch.testing.assert_close(mine, image, **TOLERANCE)
    assert angles.unique().numel() > 1
    for one, other, angle in zip(a, b, angles, strict=True):
        assert one["masks"].dtype == other["masks"].dtype
        # A sample that falls between two pixels may round to either.
        assert (one["masks"] != other["masks"]).float().mean() < 2e-3
        if angle % 90 == 0 and height == width:
            torch.testing.assert_close(other["boxes"], one["boxes"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16])
def test_masks_of_every_type(theirs, dtype):
    x = smooth(6, (3, 48, 48))
    results = []
    for module in pair(theirs, "direct", 8, (3, 48, 48)):
        masks = (smooth(6, (2, 48, 48), seed=4) > 0.5).to(dtype)
        targets = [{"boxes": torch.zeros(2, 4), "masks": mask} for mask in masks]
        results.append(torch.stack([target["masks"] for target in module.eval()(x, targets)[1]]))
    assert results[1].dtype == dtype
    assert (results[0] != results[1]).float().mean() < 2e-3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("group", ["C4", "C6", "C8", "D4", "D6"])
def test_orbits(theirs, group, shape):
    kind = "rotation" if group[0] == "C" else "roto-reflection"
    degrees = torch.tensor([0.0, 17.0, 90.0, 200.0, -35.0])
    modules = pair(theirs, "optimised", int(group[1:]), shape, group_type=kind)
    results = []
    for module in modules:
        module.device = torch.device("cpu")
        small = module.transformations_before_canonicalization_network_forward(smooth(3, shape))
        some = module.rotate_and_maybe_reflect(small, degrees), module.rotate_and_maybe_reflect(small, degrees, True)
        results.append((small, module.group_augment(small), *some))
    assert len(results[1][2]) == len(degrees)
    torch.testing.assert_close(results[1], results[0], **TOLERANCE)
    a, b = modules
    for name in ("group_type", "num_rotations", "num_group", "group_info_dict", "device", "beta", "gradient_trick"):
        assert getattr(a, name) == getattr(b, name), name


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("trick", ["straight_through", "gumbel_softmax"])
@pytest.mark.parametrize("kind", ["rotation", "roto-reflection"])
def test_choice(theirs, kind, trick, training):
    activations = torch.randn(7, 8 if kind == "roto-reflection" else 4, generator=torch.Generator().manual_seed(0))
    weights = torch.randn_like(activations)
    results = []
    for module in pair(theirs, "optimised", 4, (3, 48, 48), group_type=kind):
        module.device, module.gradient_trick = torch.device("cpu"), trick
        module.train(training)
        leaf = activations.clone().requires_grad_()
        torch.manual_seed(3)
        one_hot = module.groupactivations_to_groupelementonehot(leaf)
        torch.manual_seed(3)
        element = module.groupactivations_to_groupelement(leaf)
        assert one_hot.requires_grad == (training or trick == "gumbel_softmax")
        grads = []
        if one_hot.requires_grad:
            grads = [torch.autograd.grad((one_hot * weights).sum(), leaf, retain_graph=True)]
            grads += [torch.autograd.grad(value.sum(), leaf, retain_graph=True) for value in element.values()]
        results.append((one_hot, element, grads))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


def test_gumbel_softmax_canonicalizes(theirs):
    results = []
    for module in pair(theirs, "optimised", 8, (3, 48, 48)):
        module.gradient_trick = "gumbel_softmax"
        torch.manual_seed(4)
        image = module.eval()(smooth(6, (3, 48, 48)))
        results.append((image, module.canonicalization_info_dict["group_element"]["rotation"]))
    torch.testing.assert_close(results[1], results[0], **TOLERANCE)


def test_methods_one_by_one(theirs):
    """`get_group_activations` and `get_groupelement` alone, then an inversion by what they found."""
    x, results = smooth(6, (3, 48, 48)), []
    for module in pair(theirs, "optimised", 8, (3, 48, 48)):
        module.eval().device = torch.device("cpu")
        activations = module.get_group_activations(x)
        element = module.get_groupelement(x)
        back = module.invert_canonicalization(x, induced_rep_type="scalar")
        results.append((activations, element, back, module.canonicalization_info_dict))
    torch.testing.assert_close(results[1], results[0], **TOLERANCE)


@pytest.mark.parametrize("resize_shape", [32, (32, 32), (24, 40)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_the_network_sees(theirs, shape, resize_shape):
    a, b = pair(theirs, "direct", 4, shape, resize_shape=resize_shape)
    x = smooth(2, shape)
    small = b.transformations_before_canonicalization_network_forward(x)
    torch.testing.assert_close(small, a.transformations_before_canonicalization_network_forward(x), **TOLERANCE)


def test_helpers_of_the_examples(theirs):
    boxes = torch.tensor([[4.0, 6.0, 20.0, 14.0], [0.0, 0.0, 32.0, 32.0]])
    masks = (smooth(3, (1, 32, 32))[:, 0] > 0.5).to(torch.uint8)
    features, shifts = torch.rand(3, 2, 4, 5, 6), torch.tensor([0.0, 1.0, 3.0])
    points = ([16.0, 16.0], torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor(0.3))
    found = []
    for package in (theirs.images.utils, ours.images.utils):
        angles = [torch.tensor(90.0 * k) for k in range(-2, 5)]
        found.append(
            (
                [package.rotate_boxes(boxes.clone(), angle, 32) for angle in angles],
                [package.rotate_masks(masks, angle.item()) for angle in angles],
                package.flip_boxes(boxes.clone(), 32),
                package.flip_masks(masks),
                package.roll_by_gather(features, shifts),
                package.rotate_points(*points),
            )
        )
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-3)
    turned = theirs.images.utils.rotate_masks(masks, 33.0), ours.images.utils.rotate_masks(masks, 33.0)
    assert (turned[0] != turned[1]).float().mean() < 2e-3


def test_features(theirs):
    features, info = smooth(4, (8, 21, 21)), {"num_rotations": 4, "num_group": 4}
    for kind in ("scalar", "regular"):
        element = {"rotation": torch.tensor([0.0, 90.0, 180.0, 270.0])}
        a, b = (p.get_action_on_image_features(features, info, element, kind) for p in (theirs, ours))
        torch.testing.assert_close(b, a, **TOLERANCE)


def test_identity(theirs):
    x, targets = torch.rand(2, 3, 4, 4), [{}, {}]
    for package in (theirs, ours):
        module = package.IdentityCanonicalization()
        assert module(x) is x and module.invert_canonicalization(x) is x
        assert module(x, targets)[0] is x and module(x, targets)[1] is targets
        assert module.canonicalization_info_dict == {}
        assert module.get_prior_regularization_loss() == 0 and module.get_identity_metric() == 1


def test_a_method_of_ones_own(theirs):
    """A class of the user's on the common base: it says how elements are scored, and what the group is."""
    x, results = smooth(4, (3, 48, 48)), []
    for package in (theirs, ours):

        class Brightest(package.DiscreteGroupImageCanonicalization):
            def __init__(self, *args):
                super().__init__(*args)
                self.group_type, self.num_rotations, self.num_group = "rotation", 4, 4
                self.group_info_dict = {"num_rotations": 4, "num_group": 4}

            def get_group_activations(self, x):
                return torch.stack([torch.rot90(x, -k, (2, 3))[:, :, :24].mean((1, 2, 3)) for k in range(4)], 1)

        module = Brightest(nn.Identity(), settings(4), (3, 48, 48)).eval()
        image = module(x)
        results.append((image, module.invert_canonicalization(image, induced_rep_type="scalar")))
    torch.testing.assert_close(results[1], results[0], **TOLERANCE)


def test_another_network_can_be_put_in(theirs):
    x, results = smooth(4, (3, 48, 48)), []
    for module in pair(theirs, "optimised", 4, (3, 48, 48)):
        module.eval()(x)
        torch.manual_seed(8)
        module.canonicalization_network = Scores(3, 16).eval()
        results.append((module(x), module.canonicalization_info_dict["group_activations"]))
    torch.testing.assert_close(results[1], results[0], **TOLERANCE)


def test_names(theirs):
    """Every name that the modules about images give away, except what isn't provided."""
    absent = {"LieParameterization", "gram_schmidt"}
    for module in ("", "common", "images", "images.canonicalization", "images.canonicalization_networks"):
        a, b = theirs, ours
        for part in filter(None, module.split(".")):
            a, b = getattr(a, part), getattr(b, part)
        points = {n for n in a.__all__ if n.startswith("VN") or "ointcloud" in n or "graph" in n}
        points |= {"equivariant_networks"} if not module else set()
        missing = {name for name in a.__all__ if not hasattr(b, name)}
        assert missing <= absent | points | {"escnn_networks", "utils"}, module
