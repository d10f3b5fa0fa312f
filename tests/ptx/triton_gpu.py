"""A GPU whose launches the executor runs: Triton compiles its kernels to PTX for it, and no further."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

from triton import knobs
from triton.backends.nvidia.compiler import CUDABackend

from ..emulation.build import BUILD
from ..fake_gpu import FakeGpu
from .executor import File, run
from .launches import Entry

#: How `struct` writes an argument, by its type in Triton's signature. Pointers begin with a "*".
FORMATS = {"i32": "i", "i64": "q", "fp32": "f", "fp64": "d"}


class PtxGpu(FakeGpu):
    """A driver that loads PTX in the place of binaries."""

    def __init__(self) -> None:
        super().__init__(arch=80)
        #: What was compiled of kernels, in the order of loading.
        self.entries: list[Entry] = []
        #: The places in that list of those that have run.
        self.ran: set[int] = set()
        self.utils.load_binary = self._load

    def install(self) -> PtxGpu:
        """As the active driver, for as long as this process lives."""
        CUDABackend.make_cubin = lambda backend, ptx, metadata, options, capability: ptx.encode()
        knobs.cache.dir = str(BUILD.parent / "ptx" / "triton")
        knobs.compilation.disable_line_info = True
        return super().install()

    def _load(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        self.entries.append(Entry(File(binary.decode()), name))
        return 1, len(self.entries) - 1, 0, 0, 1024

    def launcher_cls(self, src: Any, metadata: Any) -> Callable[..., None]:
        size, pack = _packer(list(src.signature.values()))

        def launch(x, y, z, stream, function, packed, launch_metadata, enter, leave, *args) -> None:
            entry = self.entries[function]
            pack(given := (ctypes.c_uint64 * (size // 8))(), args)
            threads = 32 * metadata.num_warps
            run(entry.program, x * y * z, threads, metadata.shared, ctypes.addressof(given), size)
            self.ran.add(function)

        return launch


def _packer(kinds: list[str]) -> tuple[int, Callable[[Any, tuple], None]]:
    """The bytes of a kernel's arguments, and what lays them out there: without constants, and with two pointers to
    memory of the kernel's own, which ours don't have."""
    passed = [(i, kind) for i, kind in enumerate(kinds) if kind != "constexpr"]
    layout = struct.Struct("@" + "".join("Q" if kind[0] == "*" else FORMATS[kind] for _, kind in passed) + "QQ")

    def pack(to: Any, args: tuple) -> None:
        given = (args[i].data_ptr() if kind[0] == "*" else args[i] for i, kind in passed)
        layout.pack_into(to, 0, *given, 0, 0)

    return layout.size, pack
