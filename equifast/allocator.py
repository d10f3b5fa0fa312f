"""What the C library does with freed memory. Commands decide that for their process; the package by itself doesn't."""

from __future__ import annotations

import ctypes
import os
import sys

#: Parameters of `mallopt`, as glibc's malloc.h numbers them, and the values they get.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = {M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: (1 << 31) - 1}

#: Who sets one of these has decided otherwise.
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks of up to 1 GiB for the next ones. Returns whether it will.

    By default it gives each block above 32 MiB back to the system, and the next one is mapped anew, page by page. On a
    CPU that can take as long as the layers that have outputs of this size. Other C libraries stay as they are.
    """
    if sys.platform != "linux" or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(parameter, value) for parameter, value in KEPT.items())
