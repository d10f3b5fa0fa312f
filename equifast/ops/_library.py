"""The torch library ``equifast``: schemas, and for each op its fallback, fake kernel, autograd and autocast."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import resources

import torch

from .. import backends, kernels, native

KEYS = {"cpu": "CPU", "cuda": "CUDA"}


def _choose(device_type: str) -> str | Exception:
    try:
        return backends.choose(device_type)
    except (RuntimeError, ValueError) as error:
        return error


# Choosing loads the native library, which then holds the schemas and its own kernels.
CHOSEN = {device_type: _choose(device_type) for device_type in KEYS}

library = torch.library.Library("equifast", "FRAGMENT")
_lines = resources.files(__package__).joinpath("schemas.txt").read_text().splitlines()
_schemas = [line for line in _lines if line and not line.startswith("#")]
if CHOSEN["cpu"] != "cpu":
    native.forgo_cpu(f"not loaded, since EQUIFAST_BACKEND={os.environ.get('EQUIFAST_BACKEND')} at import")
    for _schema in _schemas:
        library.define(_schema)


def register(
    name: str,
    *,
    eager: Callable,
    fake: Callable,
    setup_context: Callable | None = None,
    backward: Callable | None = None,
    has_kernel: bool = True,
    autocast: Callable[[torch.dtype], torch.dtype] | None = None,
) -> None:
    """Registers everything of one op but its native kernels.

    ``eager`` runs where the chosen backend has no kernel of its own (``has_kernel``: whether the C++ one has).
    ``autocast`` maps the autocast dtype to the one that floating tensors are cast to.
    """
    for device_type, key in KEYS.items():
        chosen = CHOSEN[device_type]
        if isinstance(chosen, Exception):
            library.impl(name, _refuse(chosen), key)
        elif chosen == "triton" and name in kernels.FILES:
            library.impl(name, _load_when_called(name), key)
        elif chosen != "cpu" or not has_kernel:
            library.impl(name, eager, key)
        if autocast is not None:
            library.impl(name, _cast(name, device_type, autocast), f"Autocast{key}")
    torch.library.register_fake(f"equifast::{name}", fake)
    if backward is not None:
        torch.library.register_autograd(f"equifast::{name}", backward, setup_context=setup_context)


def _load_when_called(name: str) -> Callable:
    run = None

    def call(*args):
        nonlocal run
        run = run or kernels.load(name)
        return run(*args)

    return call


def _refuse(error: Exception) -> Callable:
    def refuse(*args, **kwargs):
        raise type(error)(*error.args)

    return refuse


def _cast(name: str, device_type: str, choose: Callable[[torch.dtype], torch.dtype]) -> Callable:
    def cast(*args):
        dtype = choose(torch.get_autocast_dtype(device_type))

        def to(t):
            return t.to(dtype) if isinstance(t, torch.Tensor) and t.dtype.is_floating_point else t

        with torch.amp.autocast(device_type, enabled=False):
            return getattr(torch.ops.equifast, name)(*map(to, args))

    return cast


def no_double_backward(name: str) -> Callable:
    """A backward that says why there is none."""

    def backward(ctx, *grads):
        raise RuntimeError(f"{name}: double backward is not supported; use equifast.reference.{name}")

    return backward
