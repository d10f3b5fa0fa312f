"""A ``torch.cuda`` that isn't there, with an L2 cache: what the benchmarks call of it, for tensors on the CPU.

Whoever stands for a kernel calls `FakeCuda.touch` with each tensor that it reads or writes. That takes a millisecond
for each byte, and `HIT` of it where the tensor is in the cache, which holds the tensors that were touched last. Outputs
are blocks from `FakeCuda.empty`, since an allocator of GPU memory hands out again the block that was freed last.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from types import SimpleNamespace

import torch

from benchmarks.harness import cache

#: What a byte in the cache costs, as a share of one in memory.
HIT = 0.25

Touched = tuple[int, int]


class Block:
    """Memory of an output; its address is free again once nobody refers to it."""

    def __init__(self, address: int, nbytes: int, free: list[int]) -> None:
        self.address, self.nbytes, self.free = address, nbytes, free

    def data_ptr(self) -> int:
        return self.address

    def __del__(self) -> None:
        self.free.append(self.address)


class FakeCuda:
    """``clock``: milliseconds; ``flushed``: how often the cache was. Nothing may be flushed while a call is timed."""

    def __init__(self, l2_bytes: int) -> None:
        self.l2_bytes, self.clock, self.flushed, self.timing = l2_bytes, 0.0, 0, False
        self.held: OrderedDict[int, int] = OrderedDict()
        self.recorded: list[Touched] | None = None
        self.free: dict[int, list[int]] = {}
        self.addresses = itertools.count(-1, -1)

    def empty(self, nbytes: int) -> Block:
        free = self.free.setdefault(nbytes, [])
        return Block(free.pop() if free else next(self.addresses), nbytes, free)

    def touch(self, *tensors: torch.Tensor | Block) -> None:
        for tensor in tensors:
            if self.recorded is not None:
                self.recorded.append((tensor.data_ptr(), tensor.nbytes))
            else:
                self.run(tensor.data_ptr(), tensor.nbytes)

    def run(self, address: int, size: int) -> None:
        self.clock += size * (HIT if address in self.held else 1.0)
        self.held[address] = size
        self.held.move_to_end(address)
        while sum(self.held.values()) > self.l2_bytes:
            self.held.popitem(last=False)

    def flush(self, device: torch.device) -> None:
        assert not self.timing
        self.held.clear()
        self.flushed += 1

    def install(self, monkeypatch) -> FakeCuda:
        properties = SimpleNamespace(
            L2_cache_size=self.l2_bytes, total_memory=80 << 30, multi_processor_count=132, uuid="12-34"
        )
        there = {
            "get_device_properties": lambda device: properties,
            "get_device_name": lambda device: "Fake GPU",
            "synchronize": lambda device: None,
            "Event": lambda enable_timing: Event(self),
            "Stream": lambda device: SimpleNamespace(wait_stream=lambda stream: None),
            "current_stream": lambda device: None,
            "stream": lambda stream: contextlib.nullcontext(),
            "CUDAGraph": lambda: Graph(self),
            "graph": recording,
        }
        for name, value in there.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(cache, "flush", self.flush)
        return self


class Event:
    """Events are recorded in pairs, and what lies between them is timed."""

    def __init__(self, gpu: FakeCuda) -> None:
        self.gpu, self.at = gpu, 0.0

    def record(self) -> None:
        self.at, self.gpu.timing = self.gpu.clock, not self.gpu.timing

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class Graph:
    def __init__(self, gpu: FakeCuda) -> None:
        self.gpu, self.touched = gpu, []

    def replay(self) -> None:
        for address, size in self.touched:
            self.gpu.run(address, size)


@contextlib.contextmanager
def recording(graph: Graph, stream: SimpleNamespace) -> Iterator[None]:
    graph.gpu.recorded = graph.touched
    try:
        yield
    finally:
        graph.gpu.recorded = None
