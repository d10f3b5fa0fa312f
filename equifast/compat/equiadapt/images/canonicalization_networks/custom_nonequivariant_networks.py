"""Networks of the optimised method: any (N, C, h, w) → (N, d)."""

from __future__ import annotations

from torch import Tensor, nn

from .....nn import conv_network


class ConvNetwork(conv_network.ConvNetwork):
    """`equifast.nn.ConvNetwork` with equiadapt's arguments and defaults: it has two layers by default."""

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        out_channels: int,
        kernel_size: int,
        num_layers: int = 2,
        out_vector_size: int = 128,
    ) -> None:
        super().__init__(in_shape, out_channels, kernel_size, num_layers, out_vector_size)


class _PretrainedResNet(nn.Module):
    """A residual network of torchvision with its default weights, and a new last layer.

    equiadapt's configurations pass ``in_shape``, ``out_channels``, ``kernel_size`` and ``num_layers`` to every network.
    None of these is used, in equiadapt or here.
    """

    architecture: str
    attribute: str

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        out_channels: int,
        kernel_size: int,
        num_layers: int = 2,
        out_vector_size: int = 128,
    ) -> None:
        super().__init__()
        try:
            from torchvision import models
        except ImportError as error:
            raise ImportError(f"{type(self).__name__} needs torchvision") from error
        network = getattr(models, self.architecture)(weights="DEFAULT")
        network.fc = nn.Sequential(nn.Linear(network.fc.in_features, out_vector_size))
        self.add_module(self.attribute, network)
        self.out_vector_size = out_vector_size

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.attribute)(x)


class ResNet18Network(_PretrainedResNet):
    """ResNet-18."""

    architecture, attribute = "resnet18", "resnet18"


class WideResNet50Network(_PretrainedResNet):
    """Wide ResNet-50-2."""

    architecture, attribute = "wide_resnet50_2", "wideresnet"


class WideResNet101Network(_PretrainedResNet):
    """Wide ResNet-101-2."""

    architecture, attribute = "wide_resnet101_2", "wideresnet"
