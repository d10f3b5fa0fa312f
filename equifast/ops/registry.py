"""Registers the ops with torch: schemas, kernels, fallback, fake kernel, autograd and autocast of each.

Each op calls `register` in its own file. Nothing here lists ops by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch.autograd import forward_ad

from .. import backends, kernels
from ..backends import native, selection
from ..schemas import SCHEMAS

#: The dispatch key of each device type that ops are registered for.
KEYS = {"cpu": "CPU", "cuda": "CUDA"}

#: The fallback of every op: what runs where the chosen backend has no kernel for it.
FALLBACKS: dict[str, Callable] = {}

#: Each op composed of others. Forward mode and `torch.func` differentiate it, and `decompositions` returns it.
COMPOSED: dict[str, Callable] = {}

#: The ops that have a kernel for CPUs alone.
CPU_ONLY: set[str] = set()


def _choose(device_type: str) -> str | Exception:
    try:
        return backends.choose(device_type)
    except (RuntimeError, ValueError) as error:
        return error


#: The backend of each device type, or the error that its ops raise. Choosing a backend loads the native library, which
#: then defines the schemas and registers its own kernels.
CHOSEN = {device_type: _choose(device_type) for device_type in KEYS}

#: All backends that share the ops of a device type among them.
CONTENDERS = {t: () if isinstance(CHOSEN[t], Exception) else backends.contenders(t) for t in KEYS}


class _Library(torch.library.Library):
    """A library whose autograd kernels know forward mode and `torch.func`.

    Those that `torch.library.register_autograd` makes drop tangents without a word, and raise an error in `torch.func`.
    """

    def impl(self, op_name, fn, dispatch_key="", **options):
        if dispatch_key == "Autograd":
            fn = _with_other_modes(op_name, fn)
        return super().impl(op_name, fn, dispatch_key, **options)


def _with_other_modes(name: str, run: Callable) -> Callable:
    """An autograd kernel that computes the op as composed of others where ``run`` can't differentiate it."""

    def call(keyset, *args):
        in_function = torch._C._are_functorch_transforms_active()
        if in_function or forward_ad._current_level >= 0:
            tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
            if any((in_function and t.requires_grad) or _has_tangent(t) for t in tensors):
                return COMPOSED[name](*args)
        return run(keyset, *args)

    return call


def _has_tangent(t: torch.Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(t).tangent is not None


library = _Library("equifast", "FRAGMENT")
if CHOSEN["cpu"] != "cpu":
    native.forgo_cpu(f"not loaded, since EQUIFAST_BACKEND={os.environ.get('EQUIFAST_BACKEND')} at import")
    for _schema in SCHEMAS.values():
        library.define(_schema)


def register(
    name: str,
    *,
    eager: Callable,
    fake: Callable,
    setup_context: Callable | None = None,
    backward: Callable | None = None,
    composed: Callable | None = None,
    has_cpu_kernel: bool = True,
    has_gpu_kernel: bool = True,
    autocast: Callable[[torch.dtype], torch.dtype] | None = None,
    prefers_triton: Callable[..., bool] | None = None,
) -> None:
    """Register everything of one op but its kernels in the native CPU library, which registers those itself.

    ``eager`` is the fallback. ``composed`` is for `COMPOSED`: the op without chunks, without writing in place and
    without a look at values, where ``eager`` has one of these. ``has_cpu_kernel`` says whether the CPU library has a
    kernel for the op, ``has_gpu_kernel`` whether any backend for GPUs has one. ``autocast`` maps the autocast dtype to
    the dtype that floating tensors are cast to. ``prefers_triton`` takes the op's arguments and says whether Triton
    serves them better than CUDA C++, where both can; without it CUDA C++ serves all of them.
    """
    FALLBACKS[name] = eager
    COMPOSED[name] = composed or eager
    if not has_gpu_kernel:
        CPU_ONLY.add(name)
    for device_type, key in KEYS.items():
        chosen = CHOSEN[device_type]
        if isinstance(chosen, Exception):
            library.impl(name, _refuse(chosen), key)
        elif found := implementations(name, CONTENDERS[device_type]):
            library.impl(name, _selected(found, prefers_triton), key)
        elif chosen != "cpu" or not has_cpu_kernel:
            library.impl(name, eager, key)
        if autocast is not None:
            library.impl(name, _cast(name, device_type, autocast), f"Autocast{key}")
    torch.library.register_fake(f"equifast::{name}", fake)
    if backward is not None:
        torch.library.register_autograd(
            f"equifast::{name}", backward, setup_context=setup_context or _save_nothing, lib=library
        )


def implementations(name: str, names: tuple[str, ...]) -> dict[str, Callable]:
    """Map each GPU backend in ``names`` that implements this op to the function to call."""
    makers = {"cuda": _cuda, "triton": _triton}
    found = {backend: makers[backend](name) for backend in names if backend in makers}
    return {backend: run for backend, run in found.items() if run is not None}


def _cuda(name: str) -> Callable | None:
    """The op as the CUDA library has it, or None. Some take an argument more: whether float32 may multiply as TF32."""
    packet = getattr(torch.ops.equifast_cuda, name, None)
    if packet is None:
        return None
    run = packet.default
    if run._schema.arguments[-1].name != "tf32":
        return run
    return lambda *args: run(*args, selection.allows_tf32(args[0].dtype))


def _triton(name: str) -> Callable | None:
    """The op's Triton kernel, or None. Triton itself is imported at the first call."""
    if name not in kernels.FILES:
        return None
    run = None

    def call(*args):
        nonlocal run
        run = run or kernels.load(name)
        return run(*args)

    return call


def _selected(found: dict[str, Callable], prefers_triton: Callable[..., bool] | None) -> Callable:
    """The one implementation, or the one of two that suits the arguments of each call."""
    if len(found) == 1:
        return next(iter(found.values()))
    cuda, triton = found["cuda"], found["triton"]
    if prefers_triton is None:
        return cuda
    return lambda *args: triton(*args) if prefers_triton(*args) else cuda(*args)


def _refuse(error: Exception) -> Callable:
    """A kernel that raises the reason why the backend that was asked for can't run."""

    def refuse(*args, **kwargs):
        raise type(error)(*error.args)

    return refuse


def _cast(name: str, device_type: str, choose: Callable[[torch.dtype], torch.dtype]) -> Callable:
    """A kernel for autocast: it casts the floating tensors but those in float64, and calls the op without autocast."""

    def cast(*args):
        dtype = choose(torch.get_autocast_dtype(device_type))

        def to(t):
            narrows = isinstance(t, torch.Tensor) and t.dtype.is_floating_point and t.dtype != torch.float64
            return t.to(dtype) if narrows else t

        with torch.amp.autocast(device_type, enabled=False):
            return getattr(torch.ops.equifast, name)(*map(to, args))

    return cast


def _save_nothing(ctx, inputs, output) -> None:
    """The set-up of a backward pass that needs nothing of the forward pass."""


def decompositions() -> dict[torch._ops.OpOverload, Callable]:
    """Each op of this package as ops of PyTorch alone, for runtimes that don't have this package.

    ::

        program = torch.export.export(module, (x,)).run_decompositions(equifast.decompositions())
        torch.onnx.export(program, dynamo=True).save("canonicalizer.onnx")

    Values are those of the ops, up to rounding. Elements that map the pixels onto themselves become transposes and
    flips; others read four pixels for each output. The orbit is in memory there.
    """
    return {getattr(torch.ops.equifast, name).default: run for name, run in COMPOSED.items()}


def no_double_backward(name: str) -> Callable:
    """A backward pass that raises an error, which says why there is none."""

    def backward(ctx, *grads):
        raise RuntimeError(f"{name}: double backward is not supported; use equifast.reference.{name}")

    return backward
