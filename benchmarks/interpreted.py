"""For dry runs: Triton's interpreter patches all of triton.language anew for every call of a device function, which is
most of its time. Once for each kernel is enough.
"""

from __future__ import annotations


def quicker() -> None:
    from triton.runtime import interpreter

    first = interpreter.InterpretedFunction.__call__

    def call(function, *args, **kwargs):
        ours = function.fn.__module__.startswith("equifast.")
        return function.rewrite()(*args, **kwargs) if ours else first(function, *args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call
