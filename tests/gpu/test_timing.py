"""What the benchmarks take for granted about the L2 cache of a GPU (benchmarks/harness/cache.py)."""

import pytest
import torch

from .device import DEVICE, device_only, gpu

cache = pytest.importorskip("benchmarks.harness.cache", reason="needs the source tree")
clocks = pytest.importorskip("benchmarks.harness.clocks", reason="needs the source tree")

pytestmark = [*gpu, device_only, pytest.mark.usefixtures("as_users_have_it")]

ROUNDS = 5


def copy_ms(size: int, cold: bool) -> float:
    """Of a copy of so many bytes, from a CUDA graph: the least of several rounds."""
    x = torch.zeros(size, dtype=torch.uint8, device=DEVICE)
    copies = cache.copied((x,), cache.copies_needed((x,), DEVICE) if cold else 1)
    makes = [lambda each=each: each[0].clone for each in copies]
    return min(clocks.graph_ms(makes, 200, DEVICE, cold=cold) for _ in range(ROUNDS))


def test_what_fits_into_the_cache_takes_longer_from_memory():
    size = cache.l2_bytes(DEVICE) // 8
    assert copy_ms(size, cold=True) > 1.1 * copy_ms(size, cold=False)


def test_what_is_far_larger_than_the_cache_is_cold_anyhow():
    size = 8 * cache.l2_bytes(DEVICE)
    assert copy_ms(size, cold=True) == pytest.approx(copy_ms(size, cold=False), rel=0.1)


def test_no_cold_copy_is_quicker_than_one_from_memory():
    """A rate that large copies don't reach would come from the cache."""
    small, large = cache.l2_bytes(DEVICE) // 4, 8 * cache.l2_bytes(DEVICE)
    assert small / copy_ms(small, cold=True) < 1.1 * large / copy_ms(large, cold=True)
