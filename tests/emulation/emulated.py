"""Emulated kernels of GPUs in the place of the CPU's: ``torch.ops.equifast`` runs them on CPU tensors."""

from __future__ import annotations

import functools
import os
import warnings
from typing import TYPE_CHECKING

import pytest
import torch

from equifast import kernels
from equifast.ops import registry

from ..ptx import compiled
from ..ptx.launches import Launches
from .build import PTX, TRITON, blocker, build, variant

if TYPE_CHECKING:
    from ..ptx.triton_gpu import PtxGpu

PREFIX = "equifast_emulated::"

#: Holds the kernels that replace those of the reference for as long as this process lives.
LIBRARY = torch.library.Library("equifast", "IMPL")

#: What runs the launches of the library in PTX, if it doesn't run them itself.
LAUNCHES: list[Launches] = []

#: What runs those of Triton.
GPUS: list[PtxGpu] = []


def _blocker() -> str | None:
    """Why the kernels of this process can't be built, or None."""
    return blocker() or (compiled.blocker() if variant() == PTX else None)


@functools.cache
def ops() -> tuple[str, ...]:
    """Build and load the kernels; the ops that there are then. None without a compiler."""
    if _blocker():
        return ()
    if variant() == TRITON:
        from ..ptx.triton_gpu import PtxGpu

        GPUS.append(PtxGpu().install())
        return tuple(kernels.FILES)
    library = build("plain" if variant() == PTX else variant())
    torch.ops.load_library(library)
    if variant() == PTX:
        LAUNCHES.append(Launches(library, compiled.compiled()))
    names = torch._C._dispatch_get_all_op_names()
    return tuple(sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)))


def install() -> None:
    """Put the kernels where a GPU's would be, so that autograd and fake kernels are those of the package.

    A missing compiler is an error where a missing native library is one; a missing nvcc, where CUDA is installed too.
    """
    if reason := _blocker():
        required = os.environ.get("EQUIFAST_REQUIRE_NATIVE") == "1" and (variant() != PTX or compiled.CUDA.exists())
        (pytest.fail if required else pytest.skip)(reason)
    names = ops()
    backend = "triton" if variant() == TRITON else "cuda"
    if backend == "cuda":
        torch.ops.equifast_cuda = torch.ops.equifast_emulated
    registry.CHOSEN["cpu"] = backend  # so that outputs are laid out as those of a GPU's kernels
    warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)  # that it replaces kernels
    for op in names:
        (run,) = registry.implementations(op, (backend,)).values()
        LIBRARY.impl(op, run, "CPU", allow_override=True)
