"""The CUDA kernels as they are emulated, once for all tests here; those for sanitizers are marked."""

import os

import pytest
import torch

from .build import blocker, build, variant


def pytest_configure(config):
    config.addinivalue_line("markers", "sanitized: runs with sanitizers too, so few and small (test_sanitizers.py)")


@pytest.fixture(scope="session", autouse=True)
def compiler():
    """Its absence is an error where that of the native libraries is."""
    if blocker():
        (pytest.fail if os.environ.get("EQUIFAST_REQUIRE_NATIVE") == "1" else pytest.skip)(blocker())


@pytest.fixture(scope="session")
def emulated(compiler):
    torch.ops.load_library(build(variant()))
