"""An orbit that isn't made until something reads it, so that a network's first convolution can make it.

`run` runs any network on the orbit of some images. In eager mode the network gets a `LazyOrbit`, a tensor without
values. While a compiler traces it, the network gets the orbit itself, and `_Substitution` replaces what reads the
orbit; the compiler then drops the orbit, which nothing uses. Either way a convolution of the orbit becomes
`ops.orbit_conv2d`. What commutes with the action of the group, such as a normalization of the input, is done to the
images. Everything else gets the orbit, so every network gives the right result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from .ops import _resample
from .ops._rows import by_element
from .orbit_functions import Function, Orbit, changes_in_place, conv2d, redirected
from .transform_set import Transforms

_ATTRIBUTES = ("shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf", "itemsize", "nbytes") + tuple(
    f"is_{kind}" for kind in ("cuda", "cpu", "meta", "sparse", "quantized", "nested", "mkldnn", "mps", "xpu")
)
_METHODS = (
    "size",
    "dim",
    "ndimension",
    "stride",
    "numel",
    "nelement",
    "element_size",
    "get_device",
    "__len__",
) + tuple(f"is_{kind}" for kind in ("floating_point", "complex", "contiguous", "signed", "conj", "neg", "inference"))
#: Functions that read no pixel.
METADATA = (
    {getattr(Tensor, name).__get__ for name in _ATTRIBUTES}
    | {getattr(Tensor, name) for name in _METHODS}
    | {torch.numel, torch.is_floating_point, torch.is_complex, torch.is_signed}
)


def run(
    network: Callable[[Tensor], Any], images: Tensor, group: Transforms, padding_mode: str, *, is_made: bool = False
) -> Any:
    """``network(orbit(images, group, padding_mode=padding_mode))``, where only what needs the orbit makes it.

    ``is_made``: the images are rows that nobody else reads, and the group is C1.
    """
    orbit = Orbit(images, group, padding_mode, is_made)
    if torch.compiler.is_compiling():
        rows = orbit.make()
        with _Substitution(rows, orbit):
            return network(rows)
    return network(orbit.make() if _needs_rows(network) else LazyOrbit.of(orbit))


def is_transformed() -> bool:
    """Whether torch records or transforms calls (a trace, `torch.func`, forward mode), and knows its own ops best."""
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    return transformed or torch.jit.is_tracing() or forward_ad._current_level >= 0


def in_vmap() -> bool:
    """Whether `torch.func.vmap` is somewhere around this call."""
    if torch.compiler.is_compiling():
        return is_transformed()  # a compiler can't tell which transform it is
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(interpreter.key() == torch._C._functorch.TransformType.Vmap for interpreter in stack)


def _needs_rows(network: Callable) -> bool:
    """Whether ``network`` runs compiled code, to which a `LazyOrbit` would only be in the way."""
    if is_transformed():
        return True
    if hasattr(network, "_torchdynamo_orig_callable"):
        return True
    # `nn.Module.modules` would make the name of each module: 30 µs in all for `ConvNetwork`.
    modules, seen = ({network} if isinstance(network, nn.Module) else set()), set()
    while modules:
        if any(map(_is_compiled, modules)):
            return True
        seen |= modules
        modules = {child for module in modules for child in module._modules.values() if child is not None} - seen
    return False


def _is_compiled(module: nn.Module) -> bool:
    scripted = isinstance(module, torch.jit.ScriptModule)
    return scripted or "_orig_mod" in module._modules or module._compiled_call_impl is not None


class LazyOrbit(Tensor):
    """Every g_e⁻¹·x as a tensor (E·B, C, H, W) that has no values until something asks for them.

    Functions of it arrive at `__torch_function__`, above autograd. Compiled code, such as TorchScript, arrives at
    `__torch_dispatch__` instead; there autograd has recorded the orbit as the output of `_Deferred`.
    """

    _orbit: Orbit
    _version_seen: int
    _rows: Tensor | None

    @staticmethod
    def of(orbit: Orbit) -> LazyOrbit:
        if not orbit.images.requires_grad:
            return LazyOrbit._wrap(orbit)
        if not torch.is_grad_enabled():
            return LazyOrbit._wrap(orbit.with_images(orbit.images.detach()))
        return _Deferred.apply(orbit.images, orbit)

    @staticmethod
    def _wrap(orbit: Orbit) -> LazyOrbit:
        x = orbit.images
        shape = (orbit.group.order * x.shape[0], *x.shape[1:])
        strides = torch.empty(shape, device="meta", memory_format=_resample.memory_format(x)).stride()
        lazy = Tensor._make_wrapper_subclass(LazyOrbit, shape, strides, dtype=x.dtype, device=x.device)
        lazy._orbit, lazy._version_seen, lazy._rows = orbit, _version(x), None
        return lazy

    def rows(self) -> Tensor:
        """The orbit itself, made once, with its graph."""
        if self._rows is None:
            images = self._orbit.images
            if self._version_seen != _version(images):
                raise RuntimeError("the orbit of x was read after x had been changed in place")
            with torch.set_grad_enabled(images.requires_grad):
                self._rows = self._orbit.make()
        return self._rows

    def unmade(self) -> Orbit | None:
        """The orbit as it is described, or None once it has been made."""
        return self._orbit if self._rows is None else None

    def convolved(self, *args) -> Tensor | None:
        """`orbit_functions.conv2d` of these arguments, or None once the orbit has been made."""
        return conv2d(self._orbit, *args) if self._rows is None else None

    @classmethod
    def __torch_function__(cls, func: Function, types, args: tuple = (), kwargs: dict | None = None):
        kwargs = kwargs or {}
        lazy = next((t for t in (*args, *kwargs.values()) if isinstance(t, LazyOrbit)), None)
        if lazy is not None and lazy._rows is None:
            if func in METADATA:
                with torch._C.DisableTorchFunctionSubclass():
                    return func(*args, **kwargs)
            result = lazy._redirected(func, args, kwargs)
            if result is not None:
                return result
        args, kwargs = tree_map_only(LazyOrbit, LazyOrbit.rows, (args, kwargs))
        return func(*args, **kwargs)

    def _redirected(self, func: Function, args: tuple, kwargs: dict) -> Tensor | None:
        """The result of ``func`` without the orbit, perhaps another lazy one; None if there is no such way."""
        result = redirected(self._orbit, self, func, args, kwargs)
        if not isinstance(result, Orbit):
            return result
        if result.images is self._orbit.images:
            return self
        if not changes_in_place(func, kwargs):
            return LazyOrbit.of(result)
        if result.images.requires_grad or result.images.dtype != self._orbit.images.dtype:
            return None
        self._orbit, self._version_seen = result, _version(result.images)
        return self

    # torch's stubs declare an instance method here; torch calls a class method.
    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Function, types, args: tuple = (), kwargs: dict | None = None
    ):
        args, kwargs = tree_map_only(LazyOrbit, lambda lazy: lazy.rows().detach(), (args, kwargs or {}))
        return func(*args, **kwargs)


def _version(x: Tensor) -> int:
    """How often x has been changed in place. Tensors made in inference mode don't count that."""
    return 0 if x.is_inference() else x._version


class _Deferred(torch.autograd.Function):
    """The orbit as autograd knows it, for functions that it records below `LazyOrbit.__torch_function__`."""

    @staticmethod
    def forward(images: Tensor, orbit: Orbit) -> LazyOrbit:
        return LazyOrbit._wrap(orbit)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Orbit], output: LazyOrbit) -> None:
        _, orbit = inputs
        ctx.group, ctx.padding_mode = orbit.group, orbit.padding_mode

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        table = list(ctx.group.action_table(inverse=True))
        members = by_element(grad.contiguous(), ctx.group.order)
        return torch.ops.equifast.orbit_average(members, None, table, [], [], ctx.padding_mode, True), None


class _Substitution(TorchFunctionMode):
    """Replaces convolutions of an orbit that has been made, by those that make it."""

    def __init__(self, rows: Tensor, orbit: Orbit) -> None:
        super().__init__()
        self.known = [(rows, orbit)]

    def __torch_function__(self, func: Function, types, args: tuple = (), kwargs: dict | None = None):
        kwargs = kwargs or {}
        result = None
        for rows, orbit in self.known:
            if any(arg is rows for arg in (*args, *kwargs.values())):
                result = redirected(orbit, rows, func, args, kwargs)
                if result is orbit:
                    return rows
        if isinstance(result, Tensor):
            return result
        output = func(*args, **kwargs)
        if changes_in_place(func, kwargs):
            self.known = []  # what was changed may share its memory with any of them
        if isinstance(result, Orbit):
            self.known.append((output, result))
        return output
