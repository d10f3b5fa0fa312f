"""torchvision for tests, also where it was built for CUDA and torch was not."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

_keep_alive: list = []


@functools.cache
def torchvision() -> ModuleType:
    """The module. A test that calls this is skipped where torchvision is not installed, and fails if it is broken."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    _declare_operators()
    import torchvision

    return torchvision


def _declare_operators() -> None:
    """Declare the two operators that torchvision expects of its own library, where that library can't be loaded.

    A torchvision built for CUDA cannot load its library beside a torch without CUDA, and then fails to import for want
    of their schemas. Nothing in these tests calls the operators.
    """
    spec = importlib.util.find_spec("torchvision")
    for library in Path(spec.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(library)
            return
        except OSError:
            pass
    schemas = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _keep_alive.append(schemas)
