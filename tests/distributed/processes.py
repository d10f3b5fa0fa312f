"""Processes for tests: a few that form a group over gloo, and any that may be killed.

They are forked from a server that has imported torch once, so starting one takes milliseconds.
"""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import equifast

#: Seconds that one call may take, on a busy machine.
PATIENCE = 180

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch.distributed.fsdp", "torch._dynamo", "equifast.datasets.run"])


class ProcessGroup:
    """Processes that form a group over gloo, and run one function after the other, all of them the same."""

    def __init__(self, size: int = 2) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.pipes, self.processes = [], []
        for rank in range(size):
            here, there = context.Pipe()
            arguments = rank, size, str(Path(self.folder.name, "store")), there, equifast.__file__
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def start(self, function: Callable, *args: Any) -> None:
        """Call ``function(*args)`` in each process, and don't wait for the results."""
        for pipe in self.pipes:
            pipe.send_bytes(pickle.dumps((function, args)))

    def run(self, function: Callable, *args: Any) -> list[Any]:
        """``function(*args)`` in each process, the results in the order of ranks.

        Raises:
            AssertionError: with the traceback of the first process that failed. The group is then closed, as the other
                processes may wait for that one.
        """
        self.start(function, *args)
        answers = []
        for pipe in self.pipes:
            succeeded, answer = pickle.loads(pipe.recv_bytes()) if pipe.poll(PATIENCE) else (False, "no answer")
            if not succeeded:
                self.close()
                raise AssertionError(answer)
            answers.append(answer)
        return answers

    @property
    def is_open(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.folder.cleanup()


def _serve(rank: int, size: int, store: str, pipe, origin: str) -> None:
    """Join the group, and run what comes through the pipe."""
    assert equifast.__file__ == origin, f"expected {origin}, got {equifast.__file__}"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, size), rank=rank, world_size=size, timeout=timedelta(seconds=PATIENCE)
    )
    while True:
        function, args = pickle.loads(pipe.recv_bytes())
        try:
            answer = True, function(*args)
        except Exception:
            answer = False, traceback.format_exc()
        pipe.send_bytes(pickle.dumps(answer))
