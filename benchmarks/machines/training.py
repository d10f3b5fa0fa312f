"""Training steps of a canonicalizer in one or several processes: their time, their memory, and what they send."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from equifast.nn import Canonicalizer, ConvNetwork

from ..pipeline.memory import give_back, resident

WARM_UP, STEPS = 2, 5

#: Processes that a run has. Where a setting has one, the other one waits.
PROCESSES = 2

#: Where Linux has ``tcpi_bytes_acked`` in its ``struct tcp_info``.
BYTES_ACKED = 120


class Setting(NamedTuple):
    """``wrapper`` is "none", "DDP" or "FSDP2"; ``images`` are those of a step, of all processes together."""

    wrapper: str
    processes: int
    group: str
    images: int
    size: int = 96


class Found(NamedTuple):
    """Of process 0: seconds a step; MiB at the peak of a step, above what is kept; MiB of weights,
    gradients and optimizer, which are kept; MiB sent a step (None where the system doesn't tell); MiB of all weights.
    """

    seconds: float
    peak: float
    kept: float
    sent: float | None
    weights: float


def measure(settings: list[Setting], steps: int = STEPS) -> list[Found]:
    """One setting after the other, in fresh processes with one thread each."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = settings, steps, str(Path(folder, "store")), answers
        multiprocessing.spawn(_process, arguments, nprocs=PROCESSES)
    return [Found(*values) for values in answers.get()]


def _process(rank: int, settings: list[Setting], steps: int, store: str, answers) -> None:
    torch.set_num_threads(1)
    file = dist.FileStore(store, PROCESSES)
    dist.init_process_group("gloo", store=file, rank=rank, world_size=PROCESSES, timeout=timedelta(hours=1))
    found = []
    for setting in settings:
        dist.barrier()
        if rank < setting.processes:
            found.append(tuple(_measure(setting, steps)))
    if rank == 0:
        answers.put(found)
    dist.barrier()
    dist.destroy_process_group()


def _measure(setting: Setting, steps: int) -> Found:
    torch.manual_seed(0)
    module = Canonicalizer(ConvNetwork((3, setting.size, setting.size)), setting.group, beta=10.0)
    weights = _mib(module.parameters())
    model = _wrapped(module, setting.wrapper)
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.rand(setting.images // setting.processes, 3, setting.size, setting.size)
    target = torch.rand_like(x)

    def step() -> None:
        optimizer.zero_grad()
        form = model(x)
        loss = (form.image - target).square().mean() + form.prior_loss() + 0.001 * form.contrastive_loss()
        loss.backward()
        optimizer.step()

    for _ in range(WARM_UP):
        step()
    peak = _peak(step)
    before, times = _sent(), []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    sent = None if before is None else ((_sent() or 0) - before) / 2**20 / steps
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return Found(median(times), peak, _mib([*model.parameters(), *grads, *states]), sent, weights)


def _wrapped(module: nn.Module, wrapper: str) -> nn.Module:
    if wrapper == "DDP":
        return DistributedDataParallel(module)
    return fully_shard(module, mesh=init_device_mesh("cpu", (dist.get_world_size(),))) if wrapper == "FSDP2" else module


def _peak(step: Callable[[], None]) -> float:
    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step()
    return (resident("VmHWM") - before) / 2**10


def _mib(tensors: Iterable[Tensor]) -> float:
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return sum(t.nbytes for t in local) / 2**20


def _sent() -> int | None:
    """Bytes that this process has sent over TCP and that have arrived, as Linux counts them for each connection."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:
            continue  # closed meanwhile
        try:
            connection = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            continue  # no socket
        with connection:
            if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += struct.unpack_from("Q", info, BYTES_ACKED)[0]
    return total
