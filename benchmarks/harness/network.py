"""The scoring network and ResNet-50 in plain PyTorch, for contenders that must not profit from equifast."""

from __future__ import annotations

from torch import Tensor, nn


class ConvNetwork(nn.Module):
    """equiadapt's small network, same ``state_dict``: (N, C, h, w) → (N, d)."""

    def __init__(self, in_shape: tuple[int, int, int], width: int, kernel: int, layers: int, vector: int) -> None:
        super().__init__()
        channels, *size = in_shape
        stack: list[nn.Module] = []
        for i in range(layers):
            last = i % 3 == 2
            out = 2 * width if last else width
            stack += [nn.Conv2d(channels, out, kernel, 2, int(last)), nn.BatchNorm2d(out), nn.GELU()]
            size = [(n + 2 * last - kernel) // 2 + 1 for n in size]
            channels = width = out
        features = channels * size[0] * size[1]
        self.enc_network = nn.Sequential(*stack)
        self.final_fc = nn.Sequential(nn.BatchNorm1d(features), nn.Dropout(0.5), nn.ReLU(), nn.Linear(features, vector))

    def forward(self, x: Tensor) -> Tensor:
        return self.final_fc(self.enc_network(x).flatten(1))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with a residual connection."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_conv_norm(channels, width, 1),
            nn.ReLU(inplace=True),
            *_conv_norm(width, width, 3, stride),
            nn.ReLU(inplace=True),
            *_conv_norm(width, 4 * width, 1),
        )
        same = channels == 4 * width and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv_norm(channels, 4 * width, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.shortcut(x))


def resnet50() -> nn.Sequential:
    """ResNet-50 (v1.5: the stride is in the 3×3), random weights: (N, 3, 224, 224) → (N, 1000)."""
    layers: list[nn.Module] = [*_conv_norm(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def _conv_norm(channels: int, width: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(width)
