"""The torch library ``equifast``: schemas, and each op's kernels, fallback, fake kernel, autograd and autocast."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import resources

import torch

from .. import backends, kernels, native, selection

KEYS = {"cpu": "CPU", "cuda": "CUDA"}

#: Backends that have kernels for GPUs. Their outputs have the same strides.
GPU = ("cuda", "triton")


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


#: Where backends compete, all of them.
CONTENDERS = {t: () if isinstance(CHOSEN[t], Exception) else backends.contenders(t) for t in KEYS}


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

    ``eager`` runs where the chosen backend has no kernel of its own (``has_kernel``: whether the one for CPUs has).
    ``autocast`` maps the autocast dtype to the one that floating tensors are cast to.
    """
    for device_type, key in KEYS.items():
        chosen = CHOSEN[device_type]
        if isinstance(chosen, Exception):
            library.impl(name, _refuse(chosen), key)
        elif ways := ways_of(name, CONTENDERS[device_type]):
            library.impl(name, _selected(name, ways) if len(ways) > 1 else next(iter(ways.values())), key)
        elif chosen != "cpu" or not has_kernel:
            library.impl(name, eager, key)
        if autocast is not None:
            library.impl(name, _cast(name, device_type, autocast), f"Autocast{key}")
    torch.library.register_fake(f"equifast::{name}", fake)
    if backward is not None:
        torch.library.register_autograd(f"equifast::{name}", backward, setup_context=setup_context)


def ways_of(name: str, names: tuple[str, ...]) -> dict[str, Callable]:
    """What runs an op, by backend: of those named, the ones that are called from here and have the op."""
    makers = {"cuda": (selection.OPS, _through_cuda), "triton": (kernels.FILES, _load_when_called)}
    return {b: makers[b][1](name) for b in names if b in makers and name in makers[b][0]}


def _selected(name: str, ways: dict[str, Callable]) -> Callable:
    def call(*args):
        return ways[selection.choose(name, args)](*args)

    return call


def _through_cuda(name: str) -> Callable:
    run = getattr(torch.ops.equifast_cuda, name).default
    if selection.OPS[name].scale is not selection.CHANNELS:
        return run
    return lambda *args: run(*args, selection.allows_tf32(args[0].dtype))


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
