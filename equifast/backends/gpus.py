"""Which GPUs and which driver this machine has, and whether a build of `_cuda` runs on them.

NVIDIA's management library (NVML) answers without starting CUDA. A process that has started CUDA can't fork workers
that use it, so importing equifast must not start it.
"""

from __future__ import annotations

import ctypes
import functools
import re
from typing import NamedTuple


class Machine(NamedTuple):
    driver: tuple[int, int]  # the newest CUDA version that the driver supports
    capabilities: tuple[tuple[int, int], ...]  # the compute capability of each GPU, visible to CUDA or not


@functools.cache
def machine() -> Machine | None:
    """What NVML tells, or None where it is absent or fails."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2():
            return None
        version, count = ctypes.c_int(), ctypes.c_uint()
        failed = nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(version))
        failed |= nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        found = []
        for index in range(count.value):
            device, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
            failed |= nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))
            if not failed:
                failed = nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor))
            found.append((major.value, minor.value))
    except (OSError, AttributeError):  # no such library, or one without these functions
        return None
    return None if failed else Machine((version.value // 1000, version.value % 1000 // 10), tuple(found))


def capabilities() -> set[tuple[int, int]]:
    """Compute capabilities of the GPUs that torch can use."""
    import torch

    count, known = torch.cuda.device_count(), machine()
    everywhere = set(known.capabilities) if known else set()
    if count and len(everywhere) == 1:
        return everywhere
    # NVML's numbers aren't CUDA's, so where GPUs differ or NVML is absent, torch is asked, which starts CUDA.
    return {torch.cuda.get_device_capability(index) for index in range(count)}


def runs_on(arch: str, gpu: tuple[int, int], *, ptx: bool = True) -> bool:
    """Whether code for ``arch`` runs on a GPU of this compute capability.

    ``arch`` is spelled as in CMake: `90-real` is machine code, `90` is machine code and PTX. The suffix `a` ties the
    code to one GPU, and `f` to a generation. ``ptx``: whether the driver can compile PTX of this version.
    """
    spelled = re.fullmatch(r"(\d+)([af]?)(-real)?", arch)
    if spelled is None:
        raise ValueError(f"arch: expected one such as 90, 90a or 90-real, got {arch!r}")
    number, kind, real = spelled.groups()
    built = divmod(int(number), 10)
    if kind == "a":
        return built == gpu
    if real or kind == "f" or not ptx:
        return built[0] == gpu[0] and built[1] <= gpu[1]
    return built <= gpu


def library_problem(nvcc: str, archs: list[str]) -> str | None:
    """Why this machine can't run a `_cuda.so` that this nvcc built for these architectures, or None."""
    version = tuple(map(int, nvcc.split(".")[:2]))
    known = machine()
    driver = known.driver if known else None
    built = f"_cuda.so was built by nvcc {nvcc} for {', '.join(archs)}"
    if driver and driver[0] < version[0]:
        return f"{built}, and the driver supports CUDA {driver[0]}.{driver[1]} at most"
    for major, minor in sorted(capabilities()):
        if not any(runs_on(arch, (major, minor), ptx=driver is None or driver >= version) for arch in archs):
            return f"{built}, and a GPU here has compute capability {major}.{minor}"
    return None
