"""Tiles and offsets of the kernels that resample, which their laws in tests/ops can't choose."""

import pytest
import torch

from equifast.groups import as_group
from equifast.kernels import _launch, _transform
from equifast.kernels._launch import Config
from equifast.ops import _library

from ..cases import assert_near, rand
from ..definitions import call, eager


def test_triton_runs_these():
    assert _library.CHOSEN == {"cpu": "triton", "cuda": "triton"}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("group", ["D4", "C8"])
def test_every_configuration(group, adjoint, memory_format, monkeypatch):
    """Tiles larger and smaller than the image, of one plane and of several."""
    x = rand(1, 3, 6, 6).contiguous(memory_format=memory_format)
    args = (x, None, list(as_group(group).action_table(inverse=True)), [], [], "border", adjoint)
    (expected,) = eager("orbit", *args)
    for sizes in ((4, 8, 1), (2, 4, 4)) if adjoint else ((4, 8, 1), (16, 16, 1), (8, 4, 2), (16, 8, 4)):
        config = Config(dict(zip(("BLOCK_I", "BLOCK_J", "BLOCK_C"), sizes, strict=True)))
        monkeypatch.setattr(_transform, "configs", lambda *args, config=config, **options: [config])
        _kernel_of_orbit()._launches.clear()
        assert_near(call("orbit", *args)[0], expected)
    _kernel_of_orbit()._launches.clear()


def _kernel_of_orbit():
    return _launch.KERNELS["orbit"]


def test_offsets_in_64_bits(monkeypatch):
    """As for images that span 2^31 elements and more, which no test can hold."""
    monkeypatch.setattr(_transform, "spans_wide", lambda images: True)
    for group in ("C4", "C8"):
        _kernel_of_orbit()._launches.clear()
        x = rand(1, 2, 5, 5)
        for adjoint in (False, True):
            args = (x, None, list(as_group(group).action_table(inverse=True)), [], [], "border", adjoint)
            assert_near(call("orbit", *args)[0], eager("orbit", *args)[0])
    _kernel_of_orbit()._launches.clear()
