"""For every test here: float32 is float32, and interpreted kernels are as quick and round as they can."""

import os

import pytest
import torch

from equifast import kernels

from .device import BACKENDS

# Before cuBLAS starts; without it PyTorch warns that sums may come out differently from run to run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def float32_in_float32():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def as_users_have_it(monkeypatch):
    """Neither filled memory nor deterministic algorithms, which would add kernels and keep kernels from being tuned."""
    torch.use_deterministic_algorithms(False)
    monkeypatch.delenv("EQUIFAST_AUTOTUNE", raising=False)


@pytest.fixture
def every_kernel():
    """Triton's, as `Kernel` by name, all loaded; what was compiled for one test isn't there for the next."""
    if "triton" not in BACKENDS:
        yield {}
        return
    for name in kernels.FILES:
        kernels.load(name)
    from equifast.kernels.host import launch

    def forget():
        for kernel in launch.KERNELS.values():
            kernel._launches.clear()
            kernel._chosen.clear()

    forget()
    yield launch.KERNELS
    forget()
