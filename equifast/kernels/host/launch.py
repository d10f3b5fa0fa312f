"""How kernels are launched: what a call needs is worked out once for each launch key, then looked up.

Triton's own ``kernel[grid](…)`` binds, specialises and hashes every argument anew: 12 µs for twenty of them, measured,
where a lookup and the launcher take 3. So a `Kernel` keeps the compiled kernel, the grid and the scalars of every
launch key it has met.

A `Kernel` also times its configurations, once for each tuning key, and keeps the fastest on disk (`tuned`).
``triton.autotune(cache_results=True)`` can't do that for us: its key is made of kernel arguments, where ours is a class
of shapes, and it would share results among all GPUs of one architecture.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.runtime import driver
from triton.runtime.errors import OutOfResources

from ... import __version__
from ...backends import INTERPRETING as INTERPRETED
from . import tuned

#: Runs what was compiled, on tensors and reals.
Launch = Callable[[Sequence[Tensor | None], tuple[float, ...]], None]


class Config(NamedTuple):
    """One way to compile a kernel: tile sizes and the like, warps of a block, and stages of its loops.

    ``registers``: the most that a thread may have. Left to itself, ptxas spills some in order to fit more blocks.
    """

    constants: dict[str, int]
    warps: int = 4
    stages: int = 1
    registers: int | None = None

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {value}" for name, value in self.constants.items())
        return f"{sizes}, {self.warps} warps, {self.stages} stages"


class Problem(NamedTuple):
    """What one launch needs besides its tensors.

    ``grid`` maps a configuration's constants to the number of blocks. ``scalars`` follow the tensors in the kernel's
    signature; ``constants`` and those of the configuration follow the scalars. ``configs`` are the configurations worth
    trying for this shape, likeliest first. Problems with equal ``tuning_key`` share one choice of them.
    """

    grid: Callable[[dict[str, int]], int]
    scalars: tuple[int | float | None, ...]
    constants: dict[str, Any]
    configs: Sequence[Config]
    tuning_key: tuple = ()


@dataclass
class Kernel:
    """A Triton function and all that was compiled of it."""

    function: Any
    fuse_multiply_add: bool = False  # sampling must round as the reference does, whose laws hold bit for bit
    _launches: dict[Hashable, tuple[Launch, bool]] = field(default_factory=dict, repr=False)
    _chosen: dict[tuple[torch.device, tuple], Config] = field(default_factory=dict, repr=False)
    _too_large: dict[str, OutOfResources] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        KERNELS[self.name] = self

    @property
    def name(self) -> str:
        return self.function.__name__.strip("_").removesuffix("_kernel")

    def chosen(self) -> dict[str, str]:
        """The configurations that were timed or remembered as the fastest, by tuning key."""
        return {" ".join(map(str, tuning_key)): str(config) for (_, tuning_key), config in self._chosen.items()}

    def launch(
        self,
        launch_key: Hashable,
        tensors: Sequence[Tensor | None],
        problem: Callable[[], Problem],
        reals: tuple[float, ...] = (),
    ) -> None:
        """Launch on the current stream of the tensors' device.

        ``launch_key`` and the alignment of the tensors stand for everything else: ``problem`` is called only when they
        are new. ``reals`` follow the scalars, and may change from call to call (annotate them as ``tl.float64``).

        Several configurations are timed once for each tuning key, and the fastest is kept on disk. The likeliest is
        taken untimed in the interpreter, with ``EQUIFAST_AUTOTUNE=0``, under ``torch.use_deterministic_algorithms``
        (another tile may round another way), and while a CUDA graph is captured.
        """
        device = (tensors[0] if tensors[0] is not None else next(t for t in tensors if t is not None)).device
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                return self.launch(launch_key, tensors, problem, reals)
        key = launch_key, device.index, *[None if t is None else t.data_ptr() % 16 for t in tensors]
        prepared = self._launches.get(key)
        if prepared is None or (not prepared[1] and _may_tune(device)):
            prepared = self._launches[key] = self._prepare(problem(), tensors, reals, device)
        prepared[0](tensors, reals)

    def _prepare(
        self, problem: Problem, tensors: Sequence[Tensor | None], reals: tuple[float, ...], device: torch.device
    ) -> tuple[Launch, bool]:
        """The launch of a configuration, and whether that choice is final: not while nothing may be timed."""
        if INTERPRETED:
            return self._compile(problem, problem.configs[0], tensors, reals), True
        if len(problem.configs) == 1:
            return self._first_that_fits(problem, tensors, reals), True
        if not _may_tune(device):
            return self._first_that_fits(problem, tensors, reals), False
        key = device, problem.tuning_key
        if key not in self._chosen:
            self._chosen[key] = self._remembered(problem, device) or self._fastest(problem, tensors, reals, device)
        return self._compile(problem, self._chosen[key], tensors, reals), True

    def _first_that_fits(self, problem: Problem, tensors: Sequence[Tensor | None], reals: tuple) -> Launch:
        for config in problem.configs[:-1]:
            with contextlib.suppress(OutOfResources):
                return self._compile(problem, config, tensors, reals)
        return self._compile(problem, problem.configs[-1], tensors, reals)

    def _remembered(self, problem: Problem, device: torch.device) -> Config | None:
        """What an earlier process found, if it is still among the configurations."""
        known = _tuned_before().get(_device_and_versions(device), {}).get(self._title(problem))
        return next((config for config in problem.configs if str(config) == known), None)

    def _title(self, problem: Problem) -> str:
        """The kernel and the tuning key, as the file of results has them."""
        return f"{self.name} {' '.join(map(str, problem.tuning_key))}"

    def _fastest(
        self, problem: Problem, tensors: Sequence[Tensor | None], reals: tuple, device: torch.device
    ) -> Config:
        """Time all configurations that fit the device, and keep the fastest."""
        times = {}
        for i, config in enumerate(problem.configs):
            with contextlib.suppress(OutOfResources):
                run = self._compile(problem, config, tensors, reals)
                times[i] = triton.testing.do_bench(lambda run=run: run(tensors, reals), 5, 20, return_mode="median")
        if not times:
            self._compile(problem, problem.configs[-1], tensors, reals)  # raises what is wrong
        fastest = problem.configs[min(times, key=times.__getitem__)]
        tuned.store(_device_and_versions(device), self._title(problem), str(fastest))
        return fastest

    def _compile(
        self, problem: Problem, config: Config, tensors: Sequence[Tensor | None], reals: tuple[float, ...]
    ) -> Launch:
        constants = problem.constants | config.constants
        grid = (problem.grid(config.constants), 1, 1)
        if INTERPRETED:
            return lambda tensors, reals: self.function[grid](*tensors, *problem.scalars, *reals, **constants)
        compiled = self.function.warmup(
            *tensors,
            *problem.scalars,
            *reals,
            **constants,
            num_warps=config.warps,
            num_stages=config.stages,
            enable_fp_fusion=self.fuse_multiply_add,
            maxnreg=config.registers,
            grid=grid,
        )
        if compiled.hash in self._too_large:  # Triton raises it only once, and would then fail at each launch
            raise self._too_large[compiled.hash]
        try:
            start = compiled[grid]
        except OutOfResources as error:
            self._too_large[compiled.hash] = error
            raise
        names = self.function.arg_names[len(tensors) + len(problem.scalars) + len(reals) :]
        scalars, values = problem.scalars, [constants[name] for name in names]
        return lambda tensors, reals: start(*tensors, *scalars, *reals, *values)


#: Every kernel by name.
KERNELS: dict[str, Kernel] = {}


@lru_cache
def _tuned_before() -> tuned.Choices:
    return tuned.load()


@lru_cache
def _device_and_versions(device: torch.device) -> str:
    """A device, and the versions that determine the code it would run."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(driver.active.get_current_target())
    return f"{name}, Triton {triton.__version__}, equifast {__version__}"


def _may_tune(device: torch.device) -> bool:
    if os.environ.get("EQUIFAST_AUTOTUNE", "1") == "0" or torch.are_deterministic_algorithms_enabled():
        return False
    return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


@lru_cache
def processors(device: torch.device) -> int:
    """The number of streaming multiprocessors of a device; 2 for the interpreter."""
    if INTERPRETED:
        return 2
    return driver.active.utils.get_device_properties(device.index or 0)["multiprocessor_count"]
