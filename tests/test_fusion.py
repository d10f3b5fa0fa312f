"""Fusing: what can be is equal to the network on the orbit and stays so; what can't says why."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equifast import reference
from equifast.nn import ConvNetwork, FusionError, OrbitConv2d, fuse_first_layer
from equifast.nn.fusion import PROBE
from equifast.nn.tracing import example_images


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class ResNet(nn.Module):
    """In torchvision's manner: stem, pooling, blocks; its last norm starts at zero."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.fc = nn.Linear(8, 10)
        nn.init.zeros_(self.layer1[1].bn2.weight)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x).mean((2, 3))
        return self.fc(F.dropout(x, 0.5, self.training))


class EfficientStem(nn.Module):
    """In EfficientNet's manner: a nested stem with SiLU, used again further on."""

    def __init__(self):
        super().__init__()
        self.act = nn.SiLU()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3), nn.SiLU(inplace=True)),
            nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), self.act),
        )
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.act(self.features(x)).mean((2, 3)))


class ViT(nn.Module):
    """A patch embedding, tokens, attention."""

    def __init__(self, image_size=32):
        super().__init__()
        self.image_size = image_size
        self.embed = nn.Conv2d(3, 16, 8, stride=8)
        self.cls = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, (image_size // 8) ** 2 + 1, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), 1)
        return self.head(self.block(x + self.positions)[:, 0])


class NormAct(nn.BatchNorm2d):
    """Normalization and activation in one module, as timm's BatchNormAct2d."""

    def __init__(self, features):
        super().__init__(features)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def small(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))


def first_conv(**options):
    return nn.Conv2d(3, 6, 3, 2, **options)


NETWORKS = {
    "ConvNetwork": lambda: ConvNetwork((3, 32, 32), 4, 5, 2, 10),
    "ResNet": ResNet,
    "EfficientStem": EfficientStem,
    "ViT": ViT,
    "norm_act": lambda: small(first_conv(), NormAct(6)),
    "bare convolution": lambda: small(first_conv(bias=False)),
    "activation without norm": lambda: small(first_conv(padding="valid"), nn.GELU()),
    "activation kernels don't know": lambda: small(first_conv(), nn.BatchNorm2d(6), nn.GELU("tanh")),
    "norm by batch statistics": lambda: small(first_conv(), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU()),
    "dilated": lambda: small(nn.Conv2d(3, 6, 3, dilation=2, padding="same"), nn.ReLU()),
}


def build(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    network(torch.rand(4, 3, 32, 32))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias)
    return network


@pytest.fixture
def x():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("group", ["C4", "D3"])
@pytest.mark.parametrize("name", NETWORKS)
def test_fused_equals_the_network_on_the_orbit(name, group, x):
    network = build(name).eval()
    fused = fuse_first_layer(network, group)
    assert any(isinstance(module, OrbitConv2d) for module in fused._root[0].modules())
    expected = network(reference.orbit(x, group))
    torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_gives_equal_gradients_and_statistics(name, x):
    ours, theirs = build(name), build(name)
    for network, run in ((ours, fuse_first_layer(ours, "D4")), (theirs, lambda x: theirs(reference.orbit(x, "D4")))):
        network.train()
        torch.manual_seed(7)
        run(x).square().mean().backward()
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")
    for (key, p), q in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("ResNet", "conv1 bn1 relu"),
        ("EfficientStem", "features.0.0 features.0.1 features.0.2"),
        ("norm_act", "0 1"),
        ("activation without norm", "0 1"),
        ("activation kernels don't know", "0 1"),
    ],
)
def test_what_follows_the_convolution_is_taken_along(name, taken):
    network = build(name)
    names = {module: key for key, module in network.named_modules()}
    assert " ".join(names[module] for module in fuse_first_layer(network, "C4")._bypassed) == taken


def test_fusing_leaves_no_trace(x):
    network = build("ResNet")
    network.layer1.eval()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fuse_first_layer(network, "C8")
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules())
    assert type(network.conv1) is nn.Conv2d and type(network.bn1) is nn.BatchNorm2d


def test_every_parameter_has_one_name_and_the_modes_are_shared():
    network = build("ResNet")
    fused = fuse_first_layer(network, "C4")
    assert [id(p) for p in fused.parameters()] == [id(p) for p in network.parameters()]
    assert list(fused.state_dict()) == [f"network.{key}" for key in network.state_dict()]
    fused.eval()
    assert not network.training and not fused.training and not network.layer1[0].bn1.training
    network.train()
    assert fused.training


class TestStaysCurrent:
    """Whatever is done to the network after fusing is seen by the fused one."""

    def check(self, network, fused, x):
        with torch.no_grad():
            expected = network(reference.orbit(x, "C4"))
            torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)

    @pytest.fixture
    def pair(self):
        network = build("ResNet").eval()
        return network, fuse_first_layer(network, "C4")

    @pytest.mark.parametrize("target", [0, 1])
    def test_converting(self, pair, x, target):
        pair[target].double()
        self.check(*pair, x.double())

    @pytest.mark.parametrize("assign", [False, True])
    def test_loading(self, pair, x, assign):
        torch.manual_seed(1)
        other = ResNet()
        other.conv1.weight.data.add_(1)
        pair[0].load_state_dict(other.state_dict(), assign=assign)
        self.check(*pair, x)

    def test_replacing_parameters(self, pair, x):
        pair[0].conv1.weight = nn.Parameter(torch.randn(8, 3, 7, 7))
        pair[0].bn1.running_mean = torch.randn(8)
        self.check(*pair, x)

    def test_exchanging_other_modules(self, pair, x):
        pair[0].fc = nn.Identity()
        self.check(*pair, x)
        pair[0].conv1 = nn.Conv2d(3, 8, 3)
        with pytest.raises(RuntimeError, match="'conv1' is another module"):
            pair[1](x)

    def test_modes_of_modules_that_have_stand_ins(self, pair, x):
        network, fused = pair
        network.training = True  # what F.dropout in forward reads
        torch.manual_seed(3)
        with torch.no_grad():
            ours = fused(x)
            torch.manual_seed(3)
            torch.testing.assert_close(ours, network(reference.orbit(x, "C4")), rtol=1e-4, atol=1e-5)
            assert not torch.equal(ours, fused(x))

    @pytest.mark.parametrize("name", ["bn1", "relu", ""])
    def test_hooks_still_run(self, pair, x, name):
        network, fused = pair
        calls = []
        network.get_submodule(name).register_forward_hook(lambda module, args, out: calls.append(type(module)))
        with torch.no_grad():
            fused(x)
        assert calls == [type(network.get_submodule(name))]

    def test_modes_once_compiled(self, pair, x):
        network, fused = pair
        torch._dynamo.reset()
        compiled = torch.compile(fused, fullgraph=True, backend="eager")
        with torch.no_grad():
            assert torch.equal(compiled(x), compiled(x))
            network.training = True  # of all modules that of F.dropout alone
            assert not torch.equal(compiled(x), compiled(x))

    def test_a_deep_copy_is_independent(self, pair, x):
        twin = copy.deepcopy(pair[1])
        pair[0].conv1.weight.data.zero_()
        pair[0].bn1.running_var.fill_(9)
        self.check(twin.network, twin, x)
        assert twin._root[0].conv1.weight is twin.network.conv1.weight

    def test_saving_and_loading_whole(self, pair, x):
        file = io.BytesIO()
        torch.save(pair[1], file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
        torch.testing.assert_close(twin(x), pair[1](x))
        twin.network.conv1.weight.data.add_(1)
        self.check(twin.network, twin, x)


def test_a_skip_from_the_bare_convolution_leaves_the_norm_where_it_is(x):
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.relu = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
            self.head = nn.Linear(6, 5)
            nn.init.zeros_(self.head.weight)  # the output alone would show nothing

        def forward(self, x):
            y = self.conv(x)
            return self.head((self.relu(self.bn(y)) + y).mean((2, 3)))

    torch.manual_seed(0)
    network = Skip().eval()
    network.bn.running_mean.normal_()
    fused = fuse_first_layer(network, "C4")
    assert fused._bypassed == (network.conv,)
    network.head.weight.data.normal_()
    torch.testing.assert_close(fused(x), network(reference.orbit(x, "C4")))


class ReadsBatchSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 4, 4), nn.Linear(4 * 64, 5)

    def forward(self, x):
        batch = x.shape[0]
        return self.head(self.conv(x).reshape(batch, -1))


class ReadsInput(ReadsBatchSize):
    def forward(self, x):
        return self.head(self.conv(x).flatten(1)) + x.mean()


class Normalizes(ReadsBatchSize):
    def forward(self, x):
        return self.head(self.conv((x - 0.5) / 0.25).flatten(1))


class Twice(ReadsBatchSize):
    def forward(self, x):
        return self.head((self.conv(x) + self.conv(x)).flatten(1))


class Unused(ReadsBatchSize):
    def forward(self, x):
        return x.flatten(1)


class Reflecting(nn.Conv2d):
    pass


def with_hook():
    network = small(first_conv())
    network[0].register_forward_hook(lambda module, args, out: out + 1)
    return network


UNFUSABLE = {
    "reads the batch size": (ReadsBatchSize, "read its input or the batch size"),
    "reads its input elsewhere": (ReadsInput, "read its input or the batch size"),
    "normalizes first": (Normalizes, "'conv', takes something made of the input"),
    "calls it twice": (Twice, "'conv', is called 2 times"),
    "never calls it": (Unused, "no Conv2d was called"),
    "has none": (lambda: small(nn.AvgPool2d(4)), "no Conv2d to fuse"),
    "hooks": (with_hook, "'0', has hooks"),
    "grouped": (lambda: small(nn.Conv2d(3, 6, 3, groups=3)), "groups=1, got 3"),
    "reflecting": (lambda: small(first_conv(padding=1, padding_mode="reflect")), "padding_mode zeros, got reflect"),
    "another type": (lambda: small(Reflecting(3, 6, 3)), "plain torch.nn.Conv2d, got Reflecting"),
    "not a module": (lambda: torch.sin, "expected a torch.nn.Module"),
    "fused already": (lambda: fuse_first_layer(build("ResNet"), "C4"), "fused already, for C4"),
    "compiled already": (lambda: torch.compile(build("ResNet")), "fuse first, then compile"),
    "takes odd images": (lambda: small(first_conv(), nn.Unflatten(3, (7, 5))), "can't be run .* pass example"),
}


@pytest.mark.parametrize("name", UNFUSABLE)
def test_what_cannot_be_fused_says_why(name):
    make, message = UNFUSABLE[name]
    torch.manual_seed(0)
    network = make()
    modes = [m.training for m in network.modules()] if isinstance(network, nn.Module) else []
    with pytest.raises(FusionError, match=message):
        fuse_first_layer(network, "C4")
    assert modes == ([m.training for m in network.modules()] if modes else [])


def test_an_example_tells_the_size(x):
    network = small(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    network(torch.rand(2, 3, 17, 23))
    with pytest.raises(FusionError, match="pass example"):
        fuse_first_layer(network, "C4")
    fused = fuse_first_layer(network.eval(), "C4", example=torch.rand(1, 3, 17, 23))
    x = torch.rand(2, 3, 17, 23)
    torch.testing.assert_close(fused(x), network(reference.orbit(x, "C4")), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"example: expected \(B, C, H, W\), got \(3, 17, 23\)"):
        fuse_first_layer(network, "C4", example=x[0])


@pytest.mark.parametrize("size", [32, 224])
def test_the_mean_of_an_example_changes_with_its_orientation(size):
    """Else a network that reads it beside its first convolution would pass for one that can be fused."""
    x = next(example_images(build("ResNet"), torch.empty(1, 3, size, size)))
    assert (reference.orbit(x, PROBE).mean() - x.mean()).abs() > 0.01 * x.mean()


def test_zero_padding_of_the_orbit_reaches_the_convolution(x):
    network = build("ResNet").eval()
    fused = fuse_first_layer(network, "C8", padding_mode="zeros")
    members = reference.orbit(x, "C8", padding_mode="zeros")
    torch.testing.assert_close(fused(x), network(members), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet10t", "vit_tiny_patch16_224"])
def test_networks_of_timm(name):
    try:
        import timm
    except Exception as error:  # a torchvision that doesn't fit this torch raises more than ImportError
        pytest.skip(f"timm can't be imported: {error}")
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, num_classes=10).eval()
    fused = fuse_first_layer(network, "C4")
    x = torch.rand(1, *network.default_cfg["input_size"])
    with torch.no_grad():
        expected = network(reference.orbit(x, "C4"))
        torch.testing.assert_close(fused(x), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
