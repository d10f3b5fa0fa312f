"""Tiles and offsets of the kernel of `angle_inner`, which its laws in tests/ops can't choose."""

import pytest
import torch

from equifast.kernels import angle_inner as kernel
from equifast.kernels.host.launch import KERNELS, Config

from ..ops.test_angle_inner import check, three


@pytest.mark.parametrize("sizes", [(4, 8, 1), (8, 4, 1), (16, 16, 1), (4, 4, 4)])
def test_every_configuration(sizes, monkeypatch):
    """Tiles larger and smaller than the image, of one channel and of several."""
    config = Config(dict(zip(("BLOCK_I", "BLOCK_J", "BLOCK_C"), sizes, strict=True)))
    monkeypatch.setattr(kernel, "configs", lambda x: [config])
    monkeypatch.setattr(KERNELS["angle_inner"], "_launches", {})
    check("C8", torch.tensor([1, 3]), three(2, 3, 6, 9))


def test_offsets_in_64_bits(monkeypatch):
    """As for images that span 2^31 elements and more, which no test can hold."""
    monkeypatch.setattr(kernel, "reach", lambda image: 1 << 31)
    monkeypatch.setattr(KERNELS["angle_inner"], "_launches", {})
    check("D3", torch.tensor([1, 5]), three(2, 3, 5, 6))
