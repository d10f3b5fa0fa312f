"""A network of the direct method in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .custom_group_equivariant_layers import (
    RotationEquivariantConv,
    RotationEquivariantConvLift,
    RotoReflectionEquivariantConv,
    RotoReflectionEquivariantConvLift,
)

#: Bytes of feature maps at once.
CHUNK_BYTES = 4 << 20

LAYERS = {
    "rotation": (RotationEquivariantConvLift, RotationEquivariantConv),
    "roto-reflection": (RotoReflectionEquivariantConvLift, RotoReflectionEquivariantConv),
}


class CustomEquivariantNetwork(nn.Module):
    """One lifting convolution and 1×1 group convolutions: (B, C, h, w) → (B, E), one activation for each element.

    Attributes:
        group_type, num_rotations: the group, as `GroupEquivariantImageCanonicalization` reads it.
        reflections_first: True, since reflected elements mean "turn, then reflect" here, and their inverse reflects
            first. See `GroupEquivariantImageCanonicalization`.
    """

    reflections_first = True

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_channels: int,
        kernel_size: int,
        group_type: str = "rotation",
        num_rotations: int = 4,
        num_layers: int = 1,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        if group_type not in LAYERS:
            raise ValueError(f"group_type: expected one of {', '.join(LAYERS)}, got {group_type!r}")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        lift, conv = LAYERS[group_type]
        layers: list[nn.Module] = [lift(in_shape[0], out_channels, kernel_size, num_rotations, device=device)]
        for _ in range(num_layers - 1):
            layers += (nn.ReLU(), conv(out_channels, out_channels, 1, num_rotations, device=device))
        self.eqv_network = nn.Sequential(*layers)
        self._channels = out_channels * num_rotations * (2 if group_type == "roto-reflection" else 1)
        self.group_type, self.num_rotations = group_type, num_rotations

    def forward(self, x: Tensor) -> Tensor:
        # Where no graph is recorded, a few images at a time stay in the caches.
        alone = not torch.is_grad_enabled() and x.device.type == "cpu" and not torch.compiler.is_compiling()
        step = max(CHUNK_BYTES // max(self._channels * x[:1, 0].nbytes, 1), 1) if alone else max(x.shape[0], 1)
        return torch.cat([self._activations(part) for part in x.split(step)])

    def _activations(self, x: Tensor) -> Tensor:
        y = self.eqv_network[:-1](x)
        # torch's stubs declare every attribute of a module as a Tensor or a Module.
        return self.eqv_network[-1].mean(y)  # type: ignore[operator]
