"""A plugin of pytest, ``-p tests.sanitizers.plugin``: the library of a sanitizer is loaded in the place of `_cpu`."""

import os
from pathlib import Path

import torch

LIBRARY = os.environ["EQUIFAST_SANITIZED"]
_load = torch.ops.load_library


def load_library(path):
    _load(LIBRARY if Path(path).name == "_cpu.so" else path)


torch.ops.load_library = load_library


def pytest_terminal_summary(terminalreporter):
    """Says whether it was loaded."""
    loaded = LIBRARY in map(str, torch.ops.loaded_libraries)
    terminalreporter.write_line(f"kernels of {LIBRARY}" if loaded else "no kernels of a sanitizer")
