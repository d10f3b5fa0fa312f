"""The Triton kernels in the place of the CPU's, executed by the package ttsem in Triton's own IR.

ttsem compiles each launch to TTIR and executes that on the CPU. It raises `KernelFault`, which names the line of the
kernel, where a program instance accesses memory outside the storages of its tensors, where the result depends on the
order of two instances that access one value in global memory, and where an operation has no defined result.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from triton.backends.nvidia.compiler import CUDABackend
from ttsem import mlir, sanitize
from ttsem._fakedriver import unstub_torch_cuda

from equifast import kernels
from equifast.kernels.host.launch import Config, Kernel, Problem
from equifast.ops import registry

#: Holds the kernels that replace those of the reference for as long as this process lives.
LIBRARY = torch.library.Library("equifast", "IMPL")

#: Keeps the session of ttsem open for as long as this process lives.
OPEN = contextlib.ExitStack()


def install() -> None:
    """Put the kernels where a GPU's would be, so that autograd and fake kernels are those of the package."""
    mlir.enable_generic_printing()  # the form that ttsem reads
    CUDABackend.make_ttgir = lambda backend, module, *options: module
    CUDABackend.make_llir = _end
    CUDABackend.make_ptx = CUDABackend.make_cubin = lambda backend, code, *options: code
    OPEN.enter_context(sanitize.session(cuda_is_cpu=False, on_unchecked=_unchecked))
    unstub_torch_cuda()  # torch has no GPU; only Triton is told that there is one
    Kernel._compile = _compile
    registry.CHOSEN["cpu"] = "triton"  # so that outputs are laid out as those of a GPU's kernels
    warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)  # that it replaces kernels
    for op in kernels.FILES:
        (run,) = registry.implementations(op, ("triton",)).values()
        LIBRARY.impl(op, run, "CPU", allow_override=True)


def _end(backend: Any, module: Any, metadata: dict[str, Any], *options: Any) -> bytes:
    """Compile no further than TTIR. Triton asks for these metadata of every kernel."""
    metadata |= {"name": "", "shared": 0}
    return b""


def _unchecked() -> None:
    raise RuntimeError("ttsem looks for no races in this launch, which has too many accesses: make the case smaller")


def _compile(
    kernel: Kernel, problem: Problem, config: Config, tensors: Sequence[Tensor | None], reals: tuple[float, ...]
) -> Callable[[Sequence[Tensor | None], tuple[float, ...]], None]:
    """`Kernel._compile`, but that each launch is an ordinary one of Triton's, which ttsem sees."""
    run = kernel.function[problem.grid(config.constants), 1, 1]
    constants = problem.constants | config.constants
    options = {"num_warps": config.warps, "num_stages": config.stages}
    return lambda tensors, reals: run(*tensors, *problem.scalars, *reals, **constants, **options)
