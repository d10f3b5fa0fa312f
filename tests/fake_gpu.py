"""A GPU that isn't there: Triton compiles for it, and what would be launched is written down.

Tensors stay on the CPU, and no kernel touches them. Needs a process in which Triton is not in interpreter mode.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

#: Bytes of shared memory that a block may have, by compute capability.
SHARED = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}

#: Triton keeps what it compiled by number of the device alone, so each has its own.
NUMBERS = itertools.count(1)


class Launch(NamedTuple):
    """``args``: as the launcher has them, constants included; ``metadata``: of the compiled kernel."""

    kernel: str
    grid: tuple[int, int, int]
    args: tuple
    metadata: Any


class FakeGpu:
    """A Triton driver. ``launches``: all so far; ``loaded``: the kernel and shared memory of every binary.

    ``duration`` of a launch, in milliseconds, is what events measure, and with them ``triton.testing.do_bench``.
    """

    def __init__(
        self,
        arch: int = 90,
        *,
        shared: int | None = None,
        processors: int = 132,
        registers: int = 32,
        duration: Callable[[Launch], float] = lambda launch: 1.0,
    ) -> None:
        self.target, self.number = GPUTarget("cuda", arch, 32), next(NUMBERS)
        self.duration = duration
        self.launches: list[Launch] = []
        self.loaded: list[tuple[str, int]] = []
        self.clock = 0.0
        self.utils = _Utils(self, shared or SHARED[arch], processors, registers)

    def install(self) -> FakeGpu:
        """As the active driver, until `remove`; kernels forget what was compiled for another."""
        driver.set_active(self)
        forget()
        return self

    def remove(self) -> None:
        driver._active = None
        forget()

    @contextlib.contextmanager
    def installed(self) -> Iterator[FakeGpu]:
        try:
            yield self.install()
        finally:
            self.remove()

    def launcher_cls(self, src: Any, metadata: Any) -> Callable[..., None]:
        def launch(x, y, z, stream, function, packed, launch_metadata, enter, leave, *args) -> None:
            self.launches.append(Launch(src.fn.__name__, (x, y, z), args, metadata))
            self.clock += self.duration(self.launches[-1])

        return launch

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.number

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> _Interface:
        return _Interface(self)

    def get_empty_cache_for_benchmark(self) -> torch.Tensor:
        return torch.empty(1)

    def clear_cache(self, cache: torch.Tensor) -> None:
        pass

    @classmethod
    def is_active(cls) -> bool:
        return True


class _Utils:
    def __init__(self, gpu: FakeGpu, shared: int, processors: int, registers: int) -> None:
        self.gpu, self.registers = gpu, registers
        self.properties = {"max_shared_mem": shared, "multiprocessor_count": processors, "warpSize": 32}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        """(module, function, registers, spills, most threads)."""
        self.gpu.loaded.append((name, shared))
        return 1, len(self.gpu.loaded), self.registers, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return self.properties


class _Interface:
    """What ``do_bench`` needs of ``torch.cuda``."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.Event = lambda enable_timing=False: _Event(gpu)

    def synchronize(self) -> None:
        pass


class _Event:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.at = gpu, 0.0

    def record(self) -> None:
        self.at = self.gpu.clock

    def elapsed_time(self, end: _Event) -> float:
        return end.at - self.at


def forget() -> None:
    """What equifast and Triton remember of a device beyond the kernels that were compiled for it."""
    from triton.compiler.compiler import max_shared_mem

    from equifast.kernels.host import launch

    max_shared_mem.cache_clear()
    launch.processors.cache_clear()
    for kernel in launch.KERNELS.values():
        kernel._launches.clear()
        kernel._chosen.clear()
