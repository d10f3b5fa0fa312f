"""The small convolutional network that scores an orbit."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ..lazy_orbit import is_transformed
from ..ops.orbit_conv2d_direct import suits_direct
from .folding import run, run_together
from .plain import channels_last, has_hooks, needs_grad


class ConvNetwork(nn.Module):
    """Strided convolutions, each with batch normalization and GELU, and a linear layer: (N, C, H, W) → (N, d).

    The architecture and the ``state_dict`` are those of equiadapt's network of that name, and its published checkpoints
    load. There is one correction: the dropout before the linear layer drops single features, not whole samples. In eval
    mode, if no gradient is needed, every normalization is folded into its convolution. In training on a CPU,
    normalization and activation are one operation.

    Args:
        in_shape: ``(C, H, W)`` of the images.
        out_channels: channels of the first convolution; every third one has twice as many as the one before it.
        kernel_size: kernel size of all convolutions. Their stride is 2.
        num_layers: number of convolutions.
        out_vector_size: d.

    Raises:
        ValueError: if ``in_shape`` is too small for so many layers of that kernel.
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        out_channels: int = 16,
        kernel_size: int = 7,
        num_layers: int = 3,
        out_vector_size: int = 128,
    ) -> None:
        super().__init__()
        if len(in_shape) != 3:
            raise ValueError(f"in_shape: expected (C, H, W), got {tuple(in_shape)}")
        if num_layers < 1:
            raise ValueError(f"num_layers: expected at least 1, got {num_layers}")
        channels, *size = in_shape
        layers: list[nn.Module] = []
        for i in range(num_layers):
            widens = i % 3 == 2
            out_channels, padding = (2 * out_channels, 1) if widens else (out_channels, 0)
            size = [(n + 2 * padding - kernel_size) // 2 + 1 for n in size]
            if min(size) < 1:
                height, width = in_shape[1:]
                raise ValueError(
                    f"in_shape: {height}×{width} is too small for {num_layers} layers with kernel {kernel_size}: "
                    f"nothing is left for layer {i + 1}"
                )
            conv = nn.Conv2d(channels, out_channels, kernel_size, stride=2, padding=padding)
            layers += (conv, nn.BatchNorm2d(out_channels), nn.GELU())
            channels = out_channels
        features = channels * math.prod(size)
        self.enc_network = nn.Sequential(*layers)
        self.final_fc = nn.Sequential(
            nn.BatchNorm1d(features), nn.Dropout(0.5), nn.ReLU(), nn.Linear(features, out_vector_size)
        )
        self.in_shape = tuple(in_shape)

    @property
    def out_vector_size(self) -> int:
        # torch's stubs declare every attribute of a module as a Tensor or a Module.
        return self.final_fc[-1].out_features  # type: ignore[return-value]

    def keeps_little(self, images: Tensor) -> bool:
        """Whether nothing between the layers is in memory when the network runs on the orbit of these images."""
        layers = self.enc_network
        plain = type(layers) is nn.Sequential and not has_hooks(layers) and not needs_grad(self, images)
        return plain and run_together(layers, images)

    def forward(self, x: Tensor) -> Tensor:
        layers = self.enc_network
        fold = not needs_grad(self, x)
        plain = type(layers) is nn.Sequential and not has_hooks(layers)
        if not (fold and plain) or is_transformed() or not suits_direct(x, next(layers.parameters())):
            # Then every layer writes channels_last too, and oneDNN is faster with it, forward and backward.
            x = channels_last(x)
        y = run(layers, x, fold=fold) if plain else layers(x)
        return self.final_fc(y.flatten(1))
