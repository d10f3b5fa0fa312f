"""Networks of the direct method made with e2cnn, which has to be installed: (B, C, h, w) → (B, E) activations.

The layers and their names are equiadapt's, and so is the ``state_dict``: its published checkpoints load.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...common.basecanonicalization import ContinuousGroupCanonicalization

try:
    import e2cnn.nn as enn
    from e2cnn import gspaces
except ImportError as error:
    raise ImportError("these networks need e2cnn: pip install e2cnn==0.2.3") from error

SPACES = {"rotation": gspaces.Rot2dOnR2, "roto-reflection": gspaces.FlipRot2dOnR2}


class _OverGroup(nn.Module):
    """A network over C_n or D_n; its activations are means over channels and pixels."""

    def __init__(self, group_type: str, num_rotations: int, kernel_size: int) -> None:
        super().__init__()
        if group_type not in SPACES:
            raise ValueError(f"group_type: expected one of {', '.join(SPACES)}, got {group_type!r}")
        self.group_type, self.num_rotations, self.kernel_size = group_type, num_rotations, kernel_size
        self.gspace = SPACES[group_type](num_rotations)
        self.in_type: enn.FieldType
        self.eqv_network: enn.SequentialModule
        self.num_group_elements = num_rotations if group_type == "rotation" else 2 * num_rotations

    def _images(self, channels: int) -> enn.FieldType:
        return enn.FieldType(self.gspace, [self.gspace.trivial_repr] * channels)

    def _features(self, channels: int) -> enn.FieldType:
        return enn.FieldType(self.gspace, [self.gspace.regular_repr] * channels)

    def forward(self, x: Tensor) -> Tensor:
        features = self.eqv_network(enn.GeometricTensor(x, self.in_type)).tensor
        return features.unflatten(1, (-1, self.num_group_elements)).mean((1, 3, 4))


class ESCNNEquivariantNetwork(_OverGroup):
    """Convolutions of one width, each but the last with normalization, ReLU and dropout. There are at least two."""

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_channels: int,
        kernel_size: int,
        group_type: str = "rotation",
        num_rotations: int = 4,
        num_layers: int = 1,
    ) -> None:
        super().__init__(group_type, num_rotations, kernel_size)
        self.in_channels, self.out_channels = in_shape[0], out_channels
        self.in_type, self.out_type = self._images(in_shape[0]), self._features(out_channels)
        fields = self.in_type
        layers: list[enn.EquivariantModule] = []
        for _ in range(max(num_layers - 1, 1)):
            layers += (
                enn.R2Conv(fields, self.out_type, kernel_size),
                enn.InnerBatchNorm(self.out_type, momentum=0.9),
                enn.ReLU(self.out_type, inplace=True),
                enn.PointwiseDropout(self.out_type, p=0.5),
            )
            fields = self.out_type
        self.eqv_network = enn.SequentialModule(*layers, enn.R2Conv(fields, self.out_type, kernel_size))


class _Residual(enn.EquivariantModule):
    """A residual block: the sum of ``conv_network`` and a shortcut, with the types of its fields."""

    def __init__(
        self, in_type: enn.FieldType, middle_type: enn.FieldType, out_type: enn.FieldType, kernel_size: int = 3
    ) -> None:
        super().__init__()
        self.in_type, self.middle_type, self.out_type = in_type, middle_type, out_type
        self.kernel_size = kernel_size

    def evaluate_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape for an input (B, channels, H, W). An unpadded convolution takes ``kernel_size − 1`` off H and W."""
        batch, _, height, width = input_shape
        convolutions = (layer for layer in self.conv_network.children() if isinstance(layer, enn.R2Conv))
        lost = sum(layer.kernel_size - 1 - 2 * layer.padding for layer in convolutions)
        return batch, self.out_type.size, height - lost, width - lost


class ESCNNWideBottleneck(_Residual):
    """1×1, k×k and 1×1 convolutions beside the identity, so the output has the size and the fields of the input."""

    def __init__(
        self, in_type: enn.FieldType, middle_type: enn.FieldType, out_type: enn.FieldType, kernel_size: int = 3
    ) -> None:
        super().__init__(in_type, middle_type, out_type, kernel_size)
        self.conv_network = enn.SequentialModule(
            enn.R2Conv(in_type, middle_type, 1),
            enn.InnerBatchNorm(middle_type, momentum=0.9),
            enn.ReLU(middle_type, inplace=True),
            enn.R2Conv(middle_type, out_type, kernel_size, padding=kernel_size // 2),
            enn.InnerBatchNorm(out_type, momentum=0.9),
            enn.ReLU(out_type, inplace=True),
            enn.R2Conv(out_type, in_type, 1),
        )

    def forward(self, x: enn.GeometricTensor) -> enn.GeometricTensor:
        return self.conv_network(x) + x


class ESCNNWideBasic(_Residual):
    """Two unpadded k×k convolutions beside one with kernel 2k − 1, which takes as much off the size."""

    def __init__(
        self, in_type: enn.FieldType, middle_type: enn.FieldType, out_type: enn.FieldType, kernel_size: int = 3
    ) -> None:
        super().__init__(in_type, middle_type, out_type, kernel_size)
        self.conv_network = enn.SequentialModule(
            enn.R2Conv(in_type, middle_type, kernel_size),
            enn.InnerBatchNorm(middle_type, momentum=0.9),
            enn.ReLU(middle_type, inplace=True),
            enn.R2Conv(middle_type, out_type, kernel_size),
        )
        self.shortcut = None
        if in_type != out_type:
            self.shortcut = enn.SequentialModule(enn.R2Conv(in_type, out_type, 2 * kernel_size - 1))

    def forward(self, x: enn.GeometricTensor) -> enn.GeometricTensor:
        return self.conv_network(x) + (x if self.shortcut is None else self.shortcut(x))


class ESCNNWRNEquivariantNetwork(_OverGroup):
    """A wide residual network of three stages of ``num_layers // 3`` blocks, each stage wider than the one before."""

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_channels: int = 64,
        kernel_size: int = 9,
        group_type: str = "rotation",
        num_layers: int = 12,
        num_rotations: int = 4,
    ) -> None:
        super().__init__(group_type, num_rotations, kernel_size)
        self.out_channels = 2 * out_channels
        first, *widths = (out_channels // 4, out_channels // 4 * 2, out_channels // 2 * 2)
        blocks = num_layers // 3
        stages = [self._features(width) for width in (first, *widths) for _ in range(blocks)]
        self.in_type, self.out_type = self._images(in_shape[0]), self._features(2 * out_channels)
        layers = [
            enn.R2Conv(self.in_type, stages[0], kernel_size),
            enn.InnerBatchNorm(stages[0], momentum=0.9),
            enn.ReLU(stages[0], inplace=True),
        ]
        for i, (fields, wider) in enumerate(zip(stages, stages[1:], strict=False)):
            block = ESCNNWideBasic if i % blocks == blocks - 1 else ESCNNWideBottleneck
            layers += (
                block(fields, wider, wider, kernel_size),
                enn.InnerBatchNorm(wider, momentum=0.9),
                enn.ReLU(wider, inplace=True),
            )
        self.eqv_network = enn.SequentialModule(*layers, enn.R2Conv(stages[-1], self.out_type, kernel_size))


class ESCNNSteerableNetwork(ContinuousGroupCanonicalization):
    """Not provided."""
