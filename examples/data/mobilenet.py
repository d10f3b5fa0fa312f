"""MobileNetV2 (arXiv 1801.04381, table 2), with torchvision's names of parameters."""

from torch import Tensor, nn

#: Of each run of blocks: how many times wider they are inside, their output channels, their number, the first's stride.
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _convolution(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU6())


class Block(nn.Module):
    """Widen, filter each channel, narrow; added to the input where the shapes are equal."""

    def __init__(self, before: int, after: int, stride: int, factor: int) -> None:
        super().__init__()
        inside = before * factor
        layers = [_convolution(before, inside, 1)] if factor > 1 else []
        layers += [_convolution(inside, inside, 3, stride, inside), nn.Conv2d(inside, after, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(after))
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Standardized images (N, 3, 224, 224) → logits (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        layers, before = [_convolution(3, 32, 3, 2)], 32
        for factor, after, number, stride in BLOCKS:
            for i in range(number):
                layers.append(Block(before, after, stride if i == 0 else 1, factor))
                before = after
        self.features = nn.Sequential(*layers, _convolution(before, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))
