"""What the host spends on a call: the device must not wait for it."""

import time

import pytest
import torch

from .device import DEVICE, OPS, device_only, gpu, moved, with_kernels

pytestmark = [*gpu, device_only, pytest.mark.usefixtures("as_users_have_it")]

MICROSECONDS = 20.0
CALLS, TRIES = 40, 20


def enqueue_microseconds(sample) -> float:
    """The least of several means, without waiting for the device, whose queue has room for a try."""
    for _ in range(3):
        sample.run()
    best = float("inf")
    with torch.inference_mode():
        for _ in range(TRIES):
            torch.cuda.synchronize(DEVICE)
            begin = time.perf_counter_ns()
            for _ in range(CALLS):
                sample.run()
            best = min(best, (time.perf_counter_ns() - begin) / CALLS / 1e3)
    torch.cuda.synchronize(DEVICE)
    return best


def test_calls_return_within_microseconds():
    """Of C4, one launch or two; ops of more launches are the convolution's gradients."""
    found = {}
    for sample in with_kernels():
        moved_ = moved(sample)
        found.setdefault(sample.op, enqueue_microseconds(moved_))
    assert set(found) == set(OPS)
    lines = [f"{op}: {us:.1f} µs" for op, us in sorted(found.items(), key=lambda pair: -pair[1])]
    print("\n".join(lines))
    several = {"orbit_conv2d_backward", "orbit_conv2d_pool_backward"}
    slow = [op for op, us in found.items() if us >= MICROSECONDS and op not in several]
    assert not slow, f"{', '.join(slow)} took {MICROSECONDS} µs or more to enqueue; all ops: " + "; ".join(lines)
