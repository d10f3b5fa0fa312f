"""The networks of the stand-ins beside those of equiadapt: outputs, gradients, states and names."""

import pytest
import torch
from torch import nn

import equifast.compat.equiadapt as ours
from equifast.compat.equiadapt.images.canonicalization_networks import converted

from .. import peers
from .alike import GROUPS, TOLERANCE, settings, smooth

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages compared with


@pytest.fixture(scope="module")
def theirs():
    return peers.equiadapt()


@pytest.mark.parametrize("kind", ["rotation", "roto-reflection"])
@pytest.mark.parametrize("n", GROUPS)
def test_custom_network(theirs, n, kind):
    x, results = smooth(3, (3, 20, 20)), []
    made = []
    for package in (theirs, ours):
        torch.manual_seed(1)
        made.append(package.CustomEquivariantNetwork((3, 20, 20), 4, 5, kind, n, 3, device="cpu"))
    for (name, a), (other, b) in zip(made[0].named_parameters(), made[1].named_parameters(), strict=True):
        assert name == other and torch.equal(a, b)
    for network in made:
        out = network(x)
        grads = torch.autograd.grad((out * torch.linspace(1, 2, out.shape[1])).sum(), list(network.parameters()))
        results.append((out, grads))
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["ESCNNEquivariantNetwork", "ESCNNWRNEquivariantNetwork"])
@pytest.mark.parametrize("kind", ["rotation", "roto-reflection"])
def test_networks_of_e2cnn(theirs, kind, name):
    x, results = smooth(2, (3, 32, 32)), []
    for package in (theirs, ours):
        torch.manual_seed(1)
        network = getattr(package, name)((3, 32, 32), 8, 3, group_type=kind, num_rotations=4, num_layers=6)
        attributes = network.group_type, network.num_rotations, network.num_group_elements, network.out_channels
        torch.manual_seed(2)
        training = network(x)
        with torch.no_grad():
            results.append((training, network.eval()(x), network.state_dict()))
        assert attributes == (kind, 4, 4 if kind == "rotation" else 8, 8 if name == "ESCNNEquivariantNetwork" else 16)
    assert results[0][2].keys() == results[1][2].keys()
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize(
    ("kind", "n"), [("rotation", 2), ("rotation", 4), ("roto-reflection", 2), ("roto-reflection", 4)]
)
def test_converted_networks_of_e2cnn(theirs, kind, n, kernel, layers):
    """Activations, their gradients by the images, statistics of training; and the canonicalizer takes the network."""
    torch.manual_seed(1)
    shape = (3, 24, 24)
    network = theirs.ESCNNEquivariantNetwork(shape, 4, kernel, group_type=kind, num_rotations=n, num_layers=layers)
    x, results = smooth(3, shape), []
    network(x)  # so that the running statistics are no longer those of the start
    own = converted(network, shape)
    assert own.training and own.num_group_elements == network.num_group_elements
    for made in (network, own):
        for module in made.modules():
            if hasattr(module, "p"):
                module.p = 0.0  # the two would drop other values
        made(x)  # and so that those of training agree too
        made.eval()
        images = x.clone().requires_grad_()
        activations = made(images)
        weights = torch.linspace(1, 2, activations.shape[1])
        module = ours.GroupEquivariantImageCanonicalization(made, settings(n, group_type=kind), shape).eval()
        with torch.no_grad():
            canonical = module(x)
        gradient = torch.autograd.grad((activations * weights).sum(), images)[0]
        results.append((activations, gradient, canonical, module.canonicalization_info_dict["group_element"]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_only_exact_networks_are_converted(theirs):
    network = theirs.ESCNNEquivariantNetwork((3, 24, 24), 4, 3, num_rotations=8, num_layers=2)
    with pytest.raises(ValueError, match="network: expected 1, 2 or 4 rotations, which are exact, got 8"):
        converted(network, (3, 24, 24))


def test_blocks_of_e2cnn_know_their_sizes():
    peers.equiadapt()
    import e2cnn

    space = e2cnn.gspaces.Rot2dOnR2(4)
    narrow, wide = (e2cnn.nn.FieldType(space, [space.regular_repr] * k) for k in (1, 2))
    for block in (ours.ESCNNWideBasic(narrow, wide, wide, 3), ours.ESCNNWideBottleneck(wide, wide, wide, 3)):
        x = e2cnn.nn.GeometricTensor(torch.rand(2, block.in_type.size, 12, 11), block.in_type)
        assert block.evaluate_output_shape(tuple(x.tensor.shape)) == tuple(block(x).tensor.shape)


def test_conv_network(theirs):
    arguments = {"in_shape": (3, 40, 40), "out_channels": 4, "kernel_size": 5}
    made = []
    for package in (theirs, ours):
        torch.manual_seed(1)
        made.append(package.ConvNetwork(**arguments))
    a, b = made
    assert {key: v.shape for key, v in a.state_dict().items()} == {key: v.shape for key, v in b.state_dict().items()}
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(one, other)
    b.load_state_dict(a.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(b.eval()(smooth(4, (3, 40, 40))), a.eval()(smooth(4, (3, 40, 40))), **TOLERANCE)


@pytest.mark.parametrize("name", ["ResNet18Network", "WideResNet50Network", "WideResNet101Network"])
def test_pretrained_networks(theirs, monkeypatch, name):
    """Without the download: each is asked for its default weights and gets a small stand-in."""
    from torchvision import models

    class Small(nn.Module):
        def __init__(self, weights, features):
            super().__init__()
            assert weights == "DEFAULT"
            self.features, self.fc = features, nn.Linear(features, 1000)

        def forward(self, x):
            return self.fc(x.mean((1, 2, 3))[:, None].expand(-1, self.features))

    for model, features in (("resnet18", 512), ("wide_resnet50_2", 2048), ("wide_resnet101_2", 2048)):
        monkeypatch.setattr(models, model, lambda weights, features=features: Small(weights, features))
    results = []
    for package in (theirs, ours):
        torch.manual_seed(0)
        network = getattr(package.images, name)((3, 8, 8), 16, 7, out_vector_size=5)
        results.append((network(torch.ones(2, 3, 8, 8)), network.state_dict(), network.out_vector_size))
    torch.testing.assert_close(results[1], results[0])
