"""How everything is timed: contenders take turns within each round, on fresh inputs, after their outputs were compared.

A contender that can't run, or computes something else, gets its reason in place of a time.

Each turn begins with a call that isn't timed. In a loop, which is what is measured, a call finds the memory that the
call before it gave back. After seconds of other contenders the first call doesn't: on a CPU the system, or the host of
a virtual machine, has taken that memory away, and maps it anew page by page.

On a GPU a contender has two turns in a round: cold, which counts, and warm (see `cache`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from . import cache, clocks
from .cache import Thunk
from .settings import Setting, quick, tiny
from .timings import Timings, Work

#: How the contenders are named whose first call compiles.
COMPILE = "compile"

#: Those that run a graph exported from PyTorch, on CPUs only: a dry run, which does what a GPU would, has none.
EXPORTED = ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"

#: A timed block of calls lasts about this long, so that the clock's and the scheduler's grain don't matter.
BLOCK_MS = 20.0
MAX_REPEATS = 200

Chosen = TypeVar("Chosen")

#: Takes the inputs of a round, does what shall not be timed, returns what shall.
Bind = Callable[..., Thunk]


class Unavailable(Exception):
    """Why a contender can't run here."""


@dataclass
class Contender:
    """A way to do the thing measured; ``build`` makes its `Bind`. Unchecked: a limit, which computes nothing."""

    name: str
    build: Callable[[], Bind]
    checked: bool = True


@dataclass
class Case:
    """One table row group: who competes at what, on which inputs.

    ``compare(got, expected, name)`` returns what is wrong with an output, or None; ``expected`` names the contender
    that is right by definition. One named ``name|tag`` is compared with the expected one of its own tag, if there is
    any. ``clock``, on a GPU: "stream", calls enqueued in a loop, by the device's time; "graph", calls recorded in a
    CUDA graph, by the device's time, so that the host's doesn't count; "host", the host's time to enqueue a call. On a
    CPU they are all the same, but for "process": the time that processors work, without what other programs take.
    """

    measure: str
    setting: Setting
    inputs: Callable[[torch.Generator], tuple]
    contenders: list[Contender]
    expected: str
    compare: Callable[[Any, Any, str], str | None]
    work: Work | None = None
    clock: str = "stream"


@dataclass
class Options:
    """``dry``: what a GPU would measure, shrunk, on CPU tensors, by interpreted kernels, once.

    ``first``: of each measure its first setting alone, which is the main one.
    """

    device: torch.device
    rounds: int = 7
    quick: bool = False
    only: tuple[str, ...] = ()
    log: Callable[[str], None] = lambda line: None
    dry: bool = False
    first: bool = False

    @property
    def kind(self) -> str:
        """Whose settings, measures and targets: "cpu" or "cuda"."""
        return "cuda" if self.dry else self.device.type

    def batch(self, cpu: int = 64, cuda: int = 256) -> int:
        return cpu if self.kind == "cpu" else cuda

    def chosen(self, settings: Iterable[Chosen]) -> list[Chosen]:
        """Those that are measured, out of all that a measure has."""
        return list(settings)[: 1 if self.first else None]

    def setting(self, setting: Setting) -> Setting:
        return tiny(setting) if self.dry else quick(setting) if self.quick else setting


def direct(function: Callable[..., Any], note: str = "") -> Bind:
    """A `Bind` that times the whole call, without a graph."""

    def bind(*inputs: Any) -> Thunk:
        def thunk() -> Any:
            with torch.inference_mode():
                return function(*inputs)

        return thunk

    return noted(bind, note)


def noted(bind: Bind, note: str) -> Bind:
    """With a remark for its row, such as which of several ways was the quickest."""
    bind.note = note
    return bind


def run(case: Case, options: Options) -> Timings:
    """Warm up and compare, then `Options.rounds` rounds in which every contender has its turn."""
    work = case.work if options.kind == "cuda" else None
    result = Timings(work=work)
    binds = {c.name: (c, bind) for c in case.contenders if (bind := _build(c, result, options)) is not None}
    result.notes = {name: note for name, (_, bind) in binds.items() if (note := getattr(bind, "note", ""))}
    first = _compare(case, binds, result, options.device)
    repeats = dict.fromkeys(binds, 1) if options.dry else _warm_up(case, binds, first, options.device)
    result.times = {name: [] for name in repeats}
    # The host's own time doesn't depend on what the device finds in its cache.
    if options.device.type == "cuda" and case.clock != "host":
        result.warm = Timings({name: [] for name in repeats}, result.errors, work=work)
    for round_ in range(options.rounds):
        inputs = _copies(case, round_ + 2, max(repeats.values(), default=1), options)
        # Who is first in a round differs, so that nobody always meets the inputs in the same cache.
        turns = deque(repeats)
        turns.rotate(-round_)
        for name in turns:
            makes = [partial(binds[name][1], *each) for each in inputs]
            try:
                taken = _time(case.clock, makes, repeats[name], options, cold=result.warm is not None)
                warm = _time(case.clock, makes[:1], repeats[name], options) if result.warm is not None else None
            except Exception as error:
                result.errors[name] = reason(error)
                continue
            result.times[name].append(taken)
            if result.warm is not None:
                result.warm.times[name].append(warm)
    for kind in filter(None, (result, result.warm)):
        kind.times = {name: times for name, times in kind.times.items() if name not in result.errors}
    return result.settle()


def _copies(case: Case, seed: int, repeats: int, options: Options) -> list[tuple]:
    """The inputs of a round, and on a GPU as many copies of them as a cold call needs.

    A loop needs no more than it has calls, since the cache is flushed before it; a graph is replayed.
    """
    inputs = _inputs(case, seed)
    if options.device.type != "cuda" or case.clock == "host":
        return [inputs]
    needed = cache.copies_needed(inputs, options.device)
    return cache.copied(inputs, needed if case.clock == "graph" else min(needed, repeats))


def _time(clock: str, makes: clocks.Makes, repeats: int, options: Options, *, cold: bool = False) -> float:
    if options.dry:
        return clocks.time_ms(makes[0](), repeats, options.device)
    if clock == "process":
        return clocks.process_ms(makes[:repeats], repeats)
    if options.device.type != "cuda" or clock == "stream":
        return clocks.loop_ms(makes[:repeats], repeats, options.device, cold=cold)
    if clock == "host":
        return clocks.host_ms(makes, repeats, options.device)
    return clocks.graph_ms(makes, repeats, options.device, cold=cold)


def reason(error: BaseException) -> str:
    """An exception in one line without paths."""
    text = " ".join(str(error).split())
    text = " ".join("…" if word.count("/") > 1 else word for word in text.split(" "))
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__


def largest_difference(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> str | None:
    """What is wrong with ``got``, None if nothing."""
    if got.shape != expected.shape:
        return f"shape {tuple(got.shape)}, not {tuple(expected.shape)}"
    difference = (got.double() - expected.double()).abs().max().item() if got.numel() else 0.0
    return None if difference <= tolerance else f"differs by {difference:.2g}, more than {tolerance:.2g}"


def _inputs(case: Case, seed: int) -> tuple:
    return case.inputs(torch.Generator().manual_seed(seed))


def _build(contender: Contender, result: Timings, options: Options) -> Bind | None:
    slow = contender.name.startswith(COMPILE) or (contender.name in EXPORTED and options.dry)
    if slow and (options.quick or options.dry):
        result.errors[contender.name] = "left out by " + ("--dry-run" if options.dry else "--quick")
        return None
    try:
        return contender.build()
    except Exception as error:
        result.errors[contender.name] = reason(error)
        return None


def _compare(
    case: Case, binds: dict[str, tuple[Contender, Bind]], result: Timings, device: torch.device
) -> dict[str, float]:
    """Drop, with the reason, every contender whose output isn't the expected one; milliseconds of the first calls."""
    inputs = _inputs(case, 0)
    outputs: dict[str, Any] = {}
    first = {}
    for name in sorted(binds, key=lambda name: name.partition("|")[0] != case.expected.partition("|")[0]):
        contender, bind = binds[name]
        try:
            kept: list = []
            thunk = bind(*inputs)
            first[name] = clocks.time_ms(lambda thunk=thunk, keep=kept.append: keep(thunk()), 1, device)
            (got,) = kept
        except Exception as error:
            result.errors[name] = reason(error)
            continue
        reference = _reference(case.expected, name, binds)
        if name == reference:
            outputs[name] = got
        elif contender.checked and reference not in outputs:
            result.errors[name] = f"unchecked: {reference} gave nothing to compare with"
        elif contender.checked and (wrong := case.compare(got, outputs[reference], name)):
            result.errors[name] = f"wrong output: {wrong}"
    for name in result.errors:
        binds.pop(name, None)
    return first


def _reference(expected: str, name: str, binds: dict) -> str:
    """The contender with whose output that of ``name`` is compared."""
    _, bar, tag = name.partition("|")
    own = expected.partition("|")[0] + bar + tag
    return own if tag and own in binds else expected


def _warm_up(
    case: Case, binds: dict[str, tuple[Contender, Bind]], first: dict[str, float], device: torch.device
) -> dict[str, int]:
    """How many calls a timed block of each contender has. A second that the first call took is warm-up enough."""
    inputs = _inputs(case, 1)
    repeats = {}
    for name, (_, bind) in binds.items():
        if not name.startswith(COMPILE) and first[name] > 1000.0:
            repeats[name] = 1
            continue
        thunk = bind(*inputs)
        once = clocks.time_ms(thunk, 1, device)
        if once < BLOCK_MS:
            once = min(once, clocks.time_ms(thunk, 3, device))
        repeats[name] = max(1, min(MAX_REPEATS, round(BLOCK_MS / max(once, 1e-3))))
    return repeats
