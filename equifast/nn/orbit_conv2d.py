"""A convolution of every orbit member, as a module."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .. import checks, ops
from ..transform_set import Transforms, as_transforms
from .folding import folded, is_foldable, run
from .plain import activation_name, has_hooks, needs_grad

Pair = tuple[int, int]
Size = int | Pair


def sizes_of(conv: nn.Conv2d) -> tuple[Pair, Pair | str, Pair]:
    """Stride, padding and dilation of a convolution, which torch declares as tuples of any length."""
    padding = conv.padding if isinstance(conv.padding, str) else _pair(conv.padding)
    return _pair(conv.stride), padding, _pair(conv.dilation)


def _pair(size: tuple[int, ...]) -> Pair:
    if len(size) != 2:
        raise ValueError(f"stride, padding, dilation: expected an int or a pair of them, got {size}")
    return size[0], size[1]


class OrbitConv2d(nn.Module):
    """``activation(norm(conv(orbit(x))))`` without the orbit: (B, C, H, W) → (E·B, C_out, H', W'), element-major.

    Equals ``F.conv2d(equifast.orbit(x, group), weight, bias, …)``, then ``norm`` and ``activation`` if given. In eval
    mode, if no gradient is needed, the normalization is folded into the weight, and the activation (ReLU, exact GELU,
    SiLU) is applied while the output is still in cache.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias: as in `torch.nn.Conv2d`.
        group: such as ``"C4"``.
        norm: a module for (N, C_out, H', W'), or None.
        activation: a module that runs after ``norm``, or None.
        padding_mode: "border" or "zeros", of the orbit; the convolution itself pads with zeros.

    Raises:
        ValueError: for an unknown group or padding_mode.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        group: Transforms | str,
        *,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        bias: bool = True,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
        padding_mode: str = "border",
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias)
        self._adopt(conv, group, norm, activation, padding_mode)

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        group: Transforms | str,
        *,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
        padding_mode: str = "border",
    ) -> OrbitConv2d:
        """The same convolution on the orbit. It shares the parameters of ``conv``, also those that replace them later.

        Raises:
            ValueError: unless ``conv`` is a plain `torch.nn.Conv2d` with zero padding and ``groups=1``.
        """
        if type(conv) is not nn.Conv2d:
            raise ValueError(f"conv: expected a plain torch.nn.Conv2d, got {type(conv).__name__}")
        if conv.padding_mode != "zeros":
            raise ValueError(f"conv: expected padding_mode zeros, got {conv.padding_mode}")
        if conv.groups != 1:
            raise ValueError(f"conv: expected groups=1, got {conv.groups}")
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self._adopt(conv, group, norm, activation, padding_mode)
        return self

    def _adopt(
        self,
        conv: nn.Conv2d,
        group: Transforms | str,
        norm: nn.Module | None,
        activation: nn.Module | None,
        padding_mode: str,
    ) -> None:
        checks.padding_mode(padding_mode)
        # Both modules have the same dict, so a parameter that is replaced (moved, loaded, sharded) is replaced in both.
        self._parameters = conv._parameters
        self.weight: Tensor
        self.bias: Tensor | None
        self.stride, self.padding, self.dilation = sizes_of(conv)
        self.group = self._transforms(group)
        self.norm = norm
        self.activation = activation
        self.padding_mode = padding_mode

    # What a layer takes as its group. Those that compose elements refuse a set.
    _transforms: Callable[[Transforms | str], Transforms] = staticmethod(as_transforms)

    # New values for weight and bias, drawn as those of a new `torch.nn.Conv2d`. Its method needs no more of ``self``.
    reset_parameters = nn.Conv2d.reset_parameters

    def forward(self, x: Tensor) -> Tensor:
        name = activation_name(self.activation)
        is_hooked = self.activation is not None and has_hooks(self.activation)
        if name is not None and is_foldable(self.norm) and not is_hooked and not needs_grad(self, x):
            return self._convolve(x, *folded(self, self.norm), name)
        y = self._convolve(x, self.weight, self.bias, "none")
        return run((layer for layer in (self.norm, self.activation) if layer is not None), y, fold=False)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        return ops.orbit_conv2d(
            x,
            weight,
            bias,
            group=self.group,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            padding_mode=self.padding_mode,
            activation=activation,
        )

    def extra_repr(self) -> str:
        shape = " × ".join(map(str, self.weight.shape))
        return (
            f"{self.group}, weight {shape}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, bias={self.bias is not None}, padding_mode={self.padding_mode}"
        )
