"""How long calls take: on a CPU, by the clock or by what it works, on a GPU, there from a CUDA graph, and for the host.

Each function takes ``makes``: functions that bind the inputs of a call, one for each copy of them (see `cache`).
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from . import cache
from .cache import Thunk

#: The least number of calls in one CUDA graph, so that starting it doesn't count; and of replays that are timed.
GRAPH_CALLS, REPLAYS = 20, 3

#: Calls that are surely enqueued without waiting.
QUEUE_CALLS = 50

Makes = list[Callable[[], Thunk]]


def loop_ms(makes: Makes, repeats: int, device: torch.device, *, cold: bool = False) -> float:
    """Milliseconds a call, in a loop over all copies that has gone round once before."""
    thunk = cache.in_turn([make() for make in makes])
    for _ in makes:
        thunk()
    if cold:
        cache.flush(device)
    return time_ms(thunk, repeats, device)


def graph_ms(makes: Makes, repeats: int, device: torch.device, *, cold: bool = False) -> float:
    """Milliseconds a call on the device alone: many are recorded in a CUDA graph, which is then replayed."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        thunks = [make() for make in makes]  # a forward pass here, so that its backward pass is on this stream too
        for thunk in [*thunks, *thunks[:1] * 2]:
            thunk()
    torch.cuda.synchronize(device)
    thunk = cache.in_turn(thunks)
    calls = math.ceil(GRAPH_CALLS / len(makes)) * len(makes)  # whole rounds, so that each replay goes on with the next
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            thunk()
    graph.replay()
    if cold:
        cache.flush(device)
    return time_ms(graph.replay, max(repeats // calls, REPLAYS), device) / calls


def process_ms(makes: Makes, repeats: int) -> float:
    """Milliseconds that processors work on a call, in all threads: what other programs take of them isn't counted."""
    thunk = cache.in_turn([make() for make in makes])
    thunk()
    with collector_off():
        begin = time.process_time_ns()
        for _ in range(repeats):
            thunk()
        return (time.process_time_ns() - begin) / repeats / 1e6


def host_ms(makes: Makes, repeats: int, device: torch.device) -> float:
    """Milliseconds until a call returns, with room in the queue for what it enqueues."""
    thunk = makes[0]()
    thunk()
    count, best = min(repeats, QUEUE_CALLS), float("inf")
    with collector_off():
        for _ in range(5):
            torch.cuda.synchronize(device)
            begin = time.perf_counter_ns()
            for _ in range(count):
                thunk()
            best = min(best, (time.perf_counter_ns() - begin) / count / 1e6)
        torch.cuda.synchronize(device)
    return best


def time_ms(thunk: Thunk, repeats: int, device: torch.device) -> float:
    """Milliseconds a call, over a block of ``repeats``."""
    with collector_off():
        if device.type == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(device)
            start.record()
            for _ in range(repeats):
                thunk()
            stop.record()
            stop.synchronize()
            return start.elapsed_time(stop) / repeats
        begin = time.perf_counter_ns()
        for _ in range(repeats):
            thunk()
        return (time.perf_counter_ns() - begin) / repeats / 1e6


@contextmanager
def collector_off() -> Iterator[None]:
    """Without Python's garbage collector, which would start whenever it likes."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
