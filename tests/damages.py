"""Imports equifast from copies of the package, each with a damaged library: ``python -m tests.damages FOLDER…``.

It prints a line of JSON for each copy: the warnings, the backend for CPUs, and whether an op was right. Torch is
imported once, and each copy in a child process of its own.
"""

from __future__ import annotations

import json
import os
import sys
import warnings

import torch


def report(folder: str) -> dict:
    sys.path.insert(0, folder)
    if os.path.exists(f"{folder}/equifast/_cuda.so"):
        torch.version.cuda = "13.0"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import equifast
        from equifast import backends
    assert equifast.__file__.startswith(folder), equifast.__file__
    x = torch.arange(50.0).view(2, 1, 5, 5)
    right = torch.equal(equifast.orbit(x, "C4"), torch.cat([torch.rot90(x, -j, (2, 3)) for j in range(4)]))
    said = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    return {"warnings": said, "backend": backends.choose("cpu"), "right": right}


if __name__ == "__main__":
    sys.path.pop(0)  # the current folder, whose package is whole
    for name in sys.argv[1:]:
        child = os.fork()
        if child == 0:
            print(json.dumps(report(name)), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"signal": status}), flush=True)
