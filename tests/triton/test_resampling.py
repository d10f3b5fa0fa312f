"""Tiles and offsets of the kernels that resample, which their laws in tests/ops can't choose."""

import pytest
import torch

from equifast import kernels
from equifast.groups import as_group
from equifast.kernels.host import launch as launches
from equifast.kernels.host import resample
from equifast.kernels.host.launch import Config
from equifast.ops import registry

from ..cases import action, assert_near, rand
from ..definitions import call, eager


def test_triton_runs_these():
    assert registry.CHOSEN == {"cpu": "triton", "cuda": "triton"}


@pytest.fixture
def kernel():
    """The kernel of `orbit`, which forgets what it launched before and what it launches here."""
    kernels.load("orbit")
    launches.KERNELS["orbit"]._launches.clear()
    yield launches.KERNELS["orbit"]
    launches.KERNELS["orbit"]._launches.clear()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("group", ["D4", "C8"])
def test_every_configuration(group, adjoint, memory_format, kernel, monkeypatch):
    """Tiles larger and smaller than the image, of one plane and of several."""
    args = rand(1, 3, 6, 6).contiguous(memory_format=memory_format), None, *action(group, adjoint=adjoint)
    (expected,) = eager("orbit", *args)
    for sizes in ((4, 8, 1), (2, 4, 4)) if adjoint else ((4, 8, 1), (16, 16, 1), (8, 4, 2), (16, 8, 4)):
        config = Config(dict(zip(("BLOCK_I", "BLOCK_J", "BLOCK_C"), sizes, strict=True)))
        monkeypatch.setattr(resample, "configs", lambda *args, config=config, **options: [config])
        kernel._launches.clear()
        assert_near(call("orbit", *args)[0], expected)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("group", [as_group("C4"), as_group("C8")], ids=str)
def test_offsets_in_64_bits(group, adjoint, kernel, monkeypatch):
    """As for images that span 2^31 values and more, which no test can hold."""
    monkeypatch.setattr(resample, "reach", lambda image: 1 << 31)
    args = rand(1, 2, 5, 5), None, *action(group, adjoint=adjoint)
    assert_near(call("orbit", *args)[0], eager("orbit", *args)[0])
