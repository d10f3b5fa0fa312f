"""``python -m benchmarks.gpu.backends``: CUDA C++ against Triton on a GPU, for every op that both have.

It times each op for several shapes and dtypes, and prints what it found. Both backends take turns within each round,
and the ratio is the median over the rounds, with cold inputs and with warm ones. A backend that fails, or that computes
something else than Triton does, gets the reason in place of a time. ``--dry-run`` runs interpreted Triton kernels
against the ops' fallbacks on tiny tensors.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from equifast import backends
from equifast.groups import as_group
from equifast.ops import registry

from ..harness import nvidia_smi, results
from ..harness.measure import Case, Contender, Options, largest_difference, run
from ..harness.settings import Setting
from ..harness.timings import Spread, Timings

GROUP = as_group("C8")
BOTH = ("cuda", "triton")
PLAIN = ("float64", "float32", "float16", "bfloat16")

Arguments = dict[str, Callable[[], tuple]]


class Tensors:
    """Random tensors of one dtype on one device."""

    def __init__(self, dtype: torch.dtype, seed: int, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator(device).manual_seed(seed)  # one on the CPU would take most of the time

    def __call__(self, *sizes: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(sizes, generator=self.generator, device=self.device).to(dtype or self.dtype)

    def ids(self, count: int) -> Tensor:
        return torch.randint(GROUP.order, (count,), generator=self.generator, device=self.device)


def on_images(new: Tensors, batch: int, size: int) -> Arguments:
    """Arguments of each op that resamples images, as torch's dispatcher passes them."""
    images, table = (batch, 3, size, size), list(GROUP.action_table(inverse=True))
    plain = (table, [], [], "border")
    return {
        "orbit": lambda: (new(*images), None, *plain, False),
        "act": lambda: (new(*images), new.ids(batch), *plain, False),
        "orbit_average": lambda: (new(GROUP.order, *images), None, *plain, False),
        "orbit_inner": lambda: (new(*images), new(GROUP.order, *images), *plain),
        "angle_inner": lambda: (new(*images), new(*images), new(*images), new.ids(batch), table, GROUP.n, "border"),
    }


def on_layers(new: Tensors, batch: int, size: int, channels: int, kernel: int, stride: int) -> Arguments:
    """Arguments of each op that convolves an orbit."""
    table, out = list(GROUP.action_table(inverse=True)), (size - kernel) // stride + 1
    options = (table, [stride] * 2, [0, 0], [1, 1], "border")

    def layer() -> tuple[Tensor, Tensor]:
        return new(batch, 3, size, size), new(channels, 3, kernel, kernel) / kernel

    return {
        "orbit_conv2d": lambda: (*layer(), None, *options, "none"),
        "orbit_conv2d_backward": lambda: (
            *(new(GROUP.order * batch, channels, out, out), *layer(), *options),
            [True, True, False],
        ),
    }


def on_vectors(new: Tensors, batch: int, d: int) -> Arguments:
    """Arguments of each op that scores or compares vectors."""
    e = GROUP.order
    vectors, reference = new(e * batch, d), new(d)
    activations, probabilities = new(batch, e), new(batch, e).softmax(1)
    wide = torch.promote_types(new.dtype, torch.float32)
    logit_scores, gram, scalars = new(batch, e, dtype=wide), new(batch, e, e, dtype=wide), (new(), new())
    saved = (vectors, reference, None, activations, probabilities, gram)
    return {
        "orbit_scores": lambda: (vectors, reference, e, 1.5, True),
        "orbit_scores_backward": lambda: (
            *(activations, activations, vectors, reference, probabilities),
            *(1.5, True),
        ),
        "orbit_logit_scores": lambda: (vectors, None, e, "confidence", 1.5),
        "orbit_logit_scores_backward": lambda: (
            *(logit_scores, logit_scores, vectors, None, logit_scores.softmax(1)),
            *("confidence", 1.5),
        ),
        "contrastive_loss": lambda: (vectors, e, True),
        "contrastive_loss_backward": lambda: (scalars[0], vectors, gram, True),
        "orbit_losses": lambda: (vectors, reference, None, e, 1.5, 1.0, True, True),
        "orbit_losses_backward": lambda: (activations, activations, *scalars, *saved, 1.5, 1.0, True, True),
    }


class Kind(NamedTuple):
    """Ops that are timed on the same shapes: each shape by its name, and a tiny one for a dry run."""

    arguments: Callable[..., Arguments]
    dtypes: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    tiny: tuple[int, ...]


#: Shapes are the arguments of the function beside them.
KINDS = (
    Kind(on_images, PLAIN, {"64x64": (256, 64), "224x224": (64, 224), "512x512": (8, 512)}, (1, 8)),
    Kind(
        on_layers,
        (*PLAIN, "tf32"),
        {"16 channels": (128, 96, 16, 7, 2), "64 channels": (64, 96, 64, 7, 2), "patches": (32, 224, 768, 16, 16)},
        (1, 8, 4, 3, 2),
    ),
    Kind(on_vectors, PLAIN, {"d 128": (512, 128), "d 512": (512, 512)}, (2, 8)),
)

#: The kind of each op that is timed.
OPS = {op: kind for kind in KINDS for op in kind.arguments(Tensors(torch.float32, 0, torch.device("cpu")), *kind.tiny)}

#: Relative to the largest value: the backends sum many products in different orders.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "tf32": 1e-2, "float16": 2e-2, "bfloat16": 1e-1}


class Problem(NamedTuple):
    op: str
    dtype: str
    name: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.op}, {self.dtype}, {self.name}"

    def inputs(self, seed: int, device: torch.device) -> tuple:
        dtype = torch.float32 if self.dtype == "tf32" else getattr(torch, self.dtype)
        return OPS[self.op].arguments(Tensors(dtype, seed, device), *self.shape)[self.op]()


def problems(only: tuple[str, ...], dry: bool) -> Iterator[Problem]:
    for op, kind in OPS.items():
        if not only or op in only:
            for dtype in ("float32",) if dry else kind.dtypes:
                for name, shape in {"tiny": kind.tiny}.items() if dry else kind.shapes.items():
                    yield Problem(op, dtype, name, shape)


def compare(got, expected, dtype: str) -> str | None:
    for a, b in zip(*((t if isinstance(t, tuple) else (t,)) for t in (got, expected)), strict=True):
        if b.is_floating_point() and b.numel():  # ids of elements may tie
            largest = max(b.abs().max().item(), 1.0)
            if wrong := largest_difference(a, b, TOLERANCE[dtype] * largest):
                return wrong
    return None


def case(problem: Problem, found: dict[str, Callable], device: torch.device) -> Case:
    def bind(function: Callable) -> Callable:
        def bound(*args):
            def thunk():
                with torch.inference_mode():
                    return function(*args)

            return thunk

        return bound

    return Case(
        problem.op,
        Setting(GROUP.name, batch=problem.shape[0], label=str(problem)),
        lambda generator: problem.inputs(generator.initial_seed(), device),
        [Contender(backend, lambda function=function: bind(function)) for backend, function in found.items()],
        "triton",
        lambda got, expected, _: compare(got, expected, problem.dtype),
    )


def measure(options: Options, only: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """A line for each problem that was timed, and a line for each failure."""
    lines, failures = [], []
    for problem in problems(only, options.dry):
        found = registry.implementations(problem.op, ("triton",) if options.dry else BOTH)
        if options.dry:
            found["cuda"] = registry.FALLBACKS[problem.op]
        torch.backends.cudnn.conv.fp32_precision = "tf32" if problem.dtype == "tf32" else "ieee"
        timings = run(case(problem, found, options.device), options)
        if timings.errors:
            failures += [f"{problem}: {who}: {why}" for who, why in timings.errors.items()]
            continue
        kinds = {"": timings} if timings.warm is None else {"cold: ": timings, "warm: ": timings.warm}
        lines.append(f"{problem}: " + "; ".join(kind + told(found) for kind, found in kinds.items()))
        options.log(lines[-1])
    return lines, failures


def told(timings: Timings) -> str:
    medians = ", ".join(f"{who} {1e3 * Spread.of(t).median:.1f} µs" for who, t in sorted(timings.times.items()))
    ratio = results.ratio(timings.times["triton"], timings.times["cuda"]).median
    return f"{medians}, triton takes {ratio:.2f} times as long as cuda"


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.backends", description="Which GPU backend is faster?"
    )
    parser.add_argument("--only", default="", help=f"comma-separated, of {', '.join(OPS)}; default: all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--once", action="store_true", help="run each once on both backends, for a profiler")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU, on tiny tensors")
    chosen = parser.parse_args(given)
    only = tuple(filter(None, chosen.only.split(",")))
    if unknown := [op for op in only if op not in OPS]:
        parser.error(f"--only: {unknown[0]!r} is none of {', '.join(OPS)}")
    if chosen.dry_run and not backends.INTERPRETING:
        environment = os.environ | {"TRITON_INTERPRET": "1", "EQUIFAST_BACKEND": "triton"}
        given = sys.argv[1:] if given is None else given
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.gpu.backends", *given], environment)
    warnings.filterwarnings("ignore", module="torch")
    if not chosen.dry_run and (missing := {b: why for b in BOTH if (why := backends.available()[b])}):
        print("Both backends are needed: " + "; ".join(f"{name}: {why}" for name, why in missing.items()))
        return 1
    if chosen.once:
        once(only)
        return 0
    device = torch.device("cpu" if chosen.dry_run else "cuda")
    rounds = 1 if chosen.dry_run else chosen.rounds
    options = Options(device, rounds, log=lambda line: print(line, file=sys.stderr, flush=True), dry=chosen.dry_run)
    states = [] if options.dry else [nvidia_smi.state(device, "before")]
    lines, failures = measure(options, only)
    print("\n".join([*lines, *(f"failed: {line}" for line in failures)]))
    if states:
        print(nvidia_smi.summary([*states, nvidia_smi.state(device, "after")]))
    print(f"{len(lines)} problems timed, {len(failures)} failures.")
    return 1 if failures else 0


def once(only: tuple[str, ...]) -> None:
    """Run each op on both backends, in float32 and bfloat16, on the last shape but one."""
    for problem in problems(only, False):
        if problem.dtype in ("float32", "bfloat16") and problem.name == list(OPS[problem.op].shapes)[-2]:
            args = problem.inputs(0, torch.device("cuda"))
            for function in registry.implementations(problem.op, BOTH).values():
                with torch.inference_mode():
                    function(*args)
    torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
