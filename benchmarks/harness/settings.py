"""What is measured on: shapes, groups, precision, and the random inputs and weights every contender shares."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

GROUPS = ("C4", "C8", "D4")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: How much of each side the network sees, resized.
CROP = 0.8

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Setting:
    """A batch of images and what is done to it. ``layers = 0``: no network here."""

    group: str
    batch: int = 64
    channels: int = 3
    size: int = 224
    resize: int = 96
    layers: int = 3
    vector: int = 128
    dtype: str = "float32"
    layout: str = "NCHW"
    label: str = ""

    @property
    def order(self) -> int:
        return int(self.group[1:]) * (2 if self.group[0] == "D" else 1)

    @property
    def crop(self) -> int:
        """Side of the centre crop that the network sees, resized."""
        return math.ceil(CROP * self.size)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, self.size, self.size

    @property
    def bytes(self) -> int:
        """Of the images."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def small(self) -> tuple[int, int, int]:
        """(C, h, w) of the network's images."""
        return self.channels, self.resize, self.resize

    def __str__(self) -> str:
        text = f"{self.group} {self.batch}×{self.channels}×{self.size}×{self.size}"
        if self.size == 1:
            text = f"B {self.batch}, E {self.order}, d {self.vector}"
        extras = [self.label] * bool(self.label)
        extras += [name for name in (self.dtype, self.layout) if name not in ("float32", "NCHW")]
        return f"{text} ({', '.join(extras)})" if extras else text

    def images(self, generator: torch.Generator, device: torch.device, shape: tuple | None = None) -> Tensor:
        """Uniform noise: nothing a cache or a branch predictor could know from the last round."""
        x = torch.rand(shape or self.shape, generator=generator)
        return x.to(device, DTYPES[self.dtype]).contiguous(memory_format=LAYOUTS[self.layout])


def headline(kind: str) -> list[Setting]:
    """64×3×224×224 float32 on a CPU; a batch of 256, both precisions and both layouts on a GPU."""
    if kind == "cpu":
        return [Setting(group) for group in GROUPS]
    variants = [(dtype, layout) for dtype in DTYPES for layout in LAYOUTS]
    return [Setting(group, batch=256, dtype=d, layout=m) for group in GROUPS for d, m in variants]


def further() -> list[Setting]:
    """Latency of one image, the image size of SAM, and CIFAR's (its own network: three layers don't fit 32×32)."""
    return [
        Setting("C4", batch=1, label="latency"),
        Setting("C4", batch=1, size=1024, label="SAM"),
        Setting("C4", batch=512, size=32, resize=32, layers=2, label="CIFAR"),
    ]


def quick(setting: Setting) -> Setting:
    """The same with an eighth of the batch: to see that everything runs, not to publish."""
    return replace(setting, batch=max(setting.batch // 8, 1))


def tiny(setting: Setting) -> Setting:
    """The same as small as it goes: to see that everything runs where every kernel is interpreted."""
    size, layers = min(setting.size, 24), min(setting.layers, 2)
    small = {"resize": min(setting.resize, 24), "vector": min(setting.vector, 16)}
    channels = setting.channels if setting.size > 1 else small["vector"]
    return replace(setting, batch=min(setting.batch, 2), channels=channels, size=size, layers=layers, **small)


def weights(setting: Setting) -> tuple[dict[str, Tensor], Tensor]:
    """State of the scoring network and the reference vector, on the CPU: one draw for all contenders."""
    from .network import ConvNetwork

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ConvNetwork(setting.small, 16, 7, setting.layers, setting.vector)
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.05, 0.15)
            elif name.endswith("running_mean"):
                buffer.normal_(std=0.1)
        return network.state_dict(), torch.randn(setting.vector)
