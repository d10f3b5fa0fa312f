"""Small networks in the manner of well-known ones, by how they read their input: for the tests of the lazy orbit.

`FUSED` read the orbit by convolutions alone, or through what commutes with the action. `READING` read it in some other
way, so that it has to be made. All take (N, 3, 32, 32).
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from equifast.nn import ConvNetwork

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])


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
    """In torchvision's manner: stem, pooling, blocks."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.fc = nn.Linear(8, 10)

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
    """A patch embedding, tokens, attention. Reads the size of its input first."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, stride=8)
        self.cls = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        batch, channels, height, width = x.shape
        if (channels, height, width) != (3, 32, 32) or len(x) != batch or not x.is_floating_point():
            raise ValueError(f"a size of {tuple(x.shape)}")
        tokens = self.embed(x).flatten(2).mT
        tokens = torch.cat((self.cls.expand(batch, -1, -1), tokens), 1)
        return self.head(self.block(tokens + self.positions)[:, 0])


class Net(nn.Module):
    """A convolution and a head; ``read`` says what is done with the input."""

    def __init__(self, read=lambda self, x: self.conv(x), conv=None):
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8 * 64, 10)
        self.read = read

    def forward(self, x):
        return self.head(self.read(self, x).flatten(1))


class Lora(nn.Module):
    """A frozen convolution with a low-rank update beside it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Conv2d(3, 8, 4, 4).requires_grad_(False)
        self.down, self.up = nn.Conv2d(3, 2, 4, 4, bias=False), nn.Conv2d(2, 8, 1, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x.to(self.down.weight.dtype)))


def sequence(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))


def _channels(values):
    return values[:, None, None]


def _normalized_in_place(self, x):
    """As torchvision's normalize does it."""
    return self.conv(x.clone().sub_(_channels(MEAN)).div_(_channels(STD)))


def _masked(self, x):
    """A number for each row of the batch, made before the convolution."""
    keep = torch.arange(x.shape[0], device=x.device) % 3 > 0
    return self.conv(x) * keep[:, None, None, None] + x.new_ones(x.shape[0], 1, 1, 1)


#: Networks that never make the orbit, and how many convolutions read it.
FUSED = {
    "ConvNetwork": (lambda: ConvNetwork((3, 32, 32), 4, 5, 2, 10), 1),
    "ResNet": (ResNet, 1),
    "EfficientStem": (EfficientStem, 1),
    "ViT": (ViT, 1),
    "bare": (Net, 1),
    "by keywords": (lambda: Net(lambda net, x: F.conv2d(input=x, weight=net.conv.weight, stride=(4,))), 1),
    "no bias, valid": (lambda: sequence(nn.Conv2d(3, 6, 3, 2, padding="valid", bias=False), nn.GELU()), 1),
    "dilated, same": (lambda: sequence(nn.Conv2d(3, 6, 3, dilation=2, padding="same"), nn.ReLU()), 1),
    "batch statistics": (
        lambda: sequence(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU()),
        1,
    ),
    "normalizes": (lambda: Net(lambda net, x: net.conv((x - _channels(MEAN)) / _channels(STD)[None])), 1),
    "normalizes in place": (lambda: Net(_normalized_in_place), 1),
    "scales": (lambda: Net(lambda net, x: net.conv(1 - 2 * x.float().contiguous())), 1),
    "dropout": (lambda: Net(lambda net, x: net.conv(F.dropout(x, 0.5, net.training))), 1),
    "padding of nothing": (lambda: Net(lambda net, x: net.conv(F.pad(x, (0, 0)))), 1),
    "twice": (lambda: Net(lambda net, x: net.conv(x) + net.conv(0.5 * x)), 2),
    "by rows": (lambda: Net(_masked), 1),
    "weight norm": (lambda: Net(conv=parametrizations.weight_norm(nn.Conv2d(3, 8, 4, 4))), 1),
    "spectral norm": (lambda: Net(conv=parametrizations.spectral_norm(nn.Conv2d(3, 8, 4, 4))), 1),
    "LoRA": (lambda: Net(conv=Lora()), 2),
    "subclass": (lambda: Net(conv=type("Mine", (nn.Conv2d,), {})(3, 8, 4, 4)), 1),
}

#: Those for which a compiled graph makes the orbit, and the modes (training or not) in which it does. A dropout reads
#: the orbit in training. A spectral norm then changes its vectors in place before the convolution, and a compiler can't
#: be asked whether those share the memory of the orbit. The compiler doesn't show ``F.pad`` to function modes.
READING_COMPILED = {"dropout": {True}, "spectral norm": {True}, "padding of nothing": {True, False}}

#: Networks that have to have the orbit.
READING = {
    "a skip": lambda: Net(lambda net, x: net.conv(x) + F.avg_pool2d(x, 4).mean(1, keepdim=True)),
    "its mean": lambda: Net(lambda net, x: net.conv(x) + x.mean()),
    "its square": lambda: Net(lambda net, x: net.conv(x * x)),
    "its inverse": lambda: Net(lambda net, x: net.conv(1 / (x + 1))),
    "a sum over positions": lambda: Net(lambda net, x: net.conv(x + torch.linspace(0, 1, 32))),
    "a mask of pixels": lambda: Net(lambda net, x: net.conv(torch.where(x > 0.5, x, 0.0))),
    "parts": lambda: Net(lambda net, x: torch.cat([net.conv(part) for part in x.split(5)])),
    "written to": lambda: Net(lambda net, x: (x[:, 0].zero_(), net.conv(x))[1]),
    "clamped in place": lambda: Net(lambda net, x: (x.clamp_(0.2, 0.8), net.conv(x))[1]),
    "no convolution": lambda: sequence(nn.AvgPool2d(4)),
    "grouped": lambda: sequence(nn.Conv2d(3, 6, 3, groups=3)),
    "reflecting": lambda: sequence(nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect")),
    "same, even kernel": lambda: sequence(nn.Conv2d(3, 6, 4, padding="same")),
}


def build(name):
    """One of `FUSED` or `READING`, with running statistics that matter."""
    torch.manual_seed(0)
    make = FUSED[name][0] if name in FUSED else READING[name]
    network = make()
    network(torch.rand(4, 3, 32, 32))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias)
    return network
