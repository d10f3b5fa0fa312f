"""For every test: poisoned memory, one thread, and what hypothesis may take."""

import pytest
import torch
from hypothesis import settings

from . import backend, drawn
from .convolutions import float32_in_float32, sampling_is_eager  # noqa: F401

settings.register_profile("equifast", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("equifast")

# For the fixtures of modules too, which come before those of a test: `one_thread`.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Every ``empty`` in Python or C++ starts as NaN or the largest integer, so an element never written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors here are small, and threads that wait for each other on a busy machine cost up to a hundredfold."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def backend_under_test():
    backend.install()


@pytest.fixture(autouse=True)
def device_under_test():
    """Tensors that a test makes without naming a device are on the one whose kernels it tests."""
    if backend.DEVICE.type == "cpu":
        yield
        return
    torch.set_default_device(backend.DEVICE)
    yield
    torch.set_default_device(None)


def pytest_report_header():
    return f"arguments are drawn by seed {drawn.SEED}, {drawn.EXAMPLES} examples of each op"
