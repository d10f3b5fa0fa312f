"""``python -m benchmarks.gpu.backends``: CUDA C++ against Triton on a GPU, every op, dtype and class of shapes.

Writes the winners into `equifast/selection.json`, by which calls are then served. Both take turns within each round,
and the median of the ratios counts. A backend that fails, or computes something else than Triton does, leaves no row:
the default stays. ``--dry-run`` runs interpreted Triton kernels against eager definitions on tiny tensors, and writes
nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from equifast import backends, selection
from equifast.groups import as_group
from equifast.ops import _library

from ..harness import results
from ..harness.measure import Case, Contender, Options, Spread, largest_difference, run
from ..harness.settings import Setting

GROUP = as_group("C8")

#: Ops that are timed in one go, each in a few minutes.
SETS = {
    "warps": ("orbit", "act", "orbit_average"),
    "sums": ("orbit_inner", "angle_inner"),
    "layers": ("orbit_conv2d",),
    "layer-gradients": ("orbit_conv2d_backward",),
    "scores": ("orbit_scores", "orbit_scores_backward", "contrastive_loss", "contrastive_loss_backward"),
    "losses": ("orbit_losses", "orbit_losses_backward"),
}

#: What stands for each class: images (batch, size); a layer (batch, size, C_out, kernel, stride); vectors (batch, d).
SHAPES = {
    (selection.PIXELS, "64x64"): (256, 64),
    (selection.PIXELS, "256x256"): (64, 224),
    (selection.PIXELS, "larger"): (8, 512),
    (selection.CHANNELS, "16 channels"): (128, 96, 16, 7, 2),
    (selection.CHANNELS, "64 channels"): (64, 96, 64, 7, 2),
    (selection.CHANNELS, "larger"): (32, 224, 768, 16, 16),
    (selection.VECTOR, "d 128"): (512, 128),
    (selection.VECTOR, "larger"): (512, 512),
}

#: Of a dry run: the same with little in it.
TINY = {selection.PIXELS: (1, 8), selection.CHANNELS: (1, 8, 4, 3, 2), selection.VECTOR: (2, 8)}

#: Relative to the largest entry: sums of many products, in another order.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "tf32": 1e-2, "float16": 2e-2, "bfloat16": 1e-1}


def inputs(op: str, dtype: str, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> tuple:
    """Arguments of an op as torch's dispatcher passes them."""
    kind = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    wide = torch.promote_types(kind, torch.float32)
    generator = torch.Generator(device).manual_seed(generator.initial_seed())  # a CPU's would take most of the time
    table, e, b = list(GROUP.action_table(inverse=True)), GROUP.order, shape[0]

    def new(*sizes: int, dtype: torch.dtype = kind) -> Tensor:
        return torch.randn(sizes, generator=generator, device=device).to(dtype)

    if selection.OPS[op].scale is selection.VECTOR:
        vectors, reference = new(e * b, shape[1]), new(shape[1])
        activations, probabilities = new(b, e), new(b, e).softmax(1)
        gram, scalars = new(b, e, e, dtype=wide), (new(), new())
        return {
            "orbit_scores": (vectors, reference, e, 1.5, True),
            "orbit_scores_backward": (activations, activations, vectors, reference, probabilities, 1.5, True),
            "contrastive_loss": (vectors, e, True),
            "contrastive_loss_backward": (scalars[0], vectors, gram, True),
            "orbit_losses": (vectors, reference, None, e, 1.5, 1.0, True, True),
            "orbit_losses_backward": (
                *(activations, activations, *scalars, vectors, reference, None, activations, probabilities, gram),
                *(1.5, 1.0, True, True),
            ),
        }[op]
    images = (b, 3, shape[1], shape[1])
    if selection.OPS[op].scale is selection.CHANNELS:
        size, channels, kernel, stride = shape[1:]
        layer = (new(channels, 3, kernel, kernel) / kernel, table, [stride] * 2, [0, 0], [1, 1], "border")
        out = (size - kernel) // stride + 1
        if op == "orbit_conv2d":
            return new(*images), layer[0], None, *layer[1:], "none"
        return new(e * b, channels, out, out), new(*images), *layer, [True, True, False]
    element = torch.randint(e, (b,), generator=generator, device=device)
    plain = (table, [], [], "border")
    return {
        "orbit": lambda: (new(*images), None, *plain, False),
        "act": lambda: (new(*images), element, *plain, False),
        "orbit_average": lambda: (new(e, *images), None, *plain, False),
        "orbit_inner": lambda: (new(*images), new(e, *images), *plain),
        "angle_inner": lambda: (new(*images), new(*images), new(*images), element, table, GROUP.n, "border"),
    }[op]()


def problems(only: tuple[str, ...], dry: bool) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """Op, dtype, class and what stands for it."""
    for op, (scale, _) in selection.OPS.items():
        if only and op not in only:
            continue
        for dtype in ("float32",) if dry else selection.dtypes(op):
            for name in scale.names[:1] if dry else scale.names:
                yield op, dtype, name, TINY[scale] if dry else SHAPES[scale, name]


def compare(got, expected, dtype: str) -> str | None:
    for a, b in zip(*((t if isinstance(t, tuple) else (t,)) for t in (got, expected)), strict=True):
        if b.is_floating_point() and b.numel():  # ids of elements may tie
            largest = max(b.abs().max().item(), 1.0)
            if wrong := largest_difference(a, b, TOLERANCE[dtype] * largest):
                return wrong
    return None


def case(op: str, dtype: str, name: str, shape: tuple[int, ...], ways: dict[str, Callable], device) -> Case:
    def bind(way: Callable) -> Callable:
        def bound(*args):
            def thunk():
                with torch.inference_mode():
                    return way(*args)

            return thunk

        return bound

    return Case(
        op,
        Setting(GROUP.name, batch=shape[0], label=f"{op}, {dtype}, {name}"),
        lambda generator: inputs(op, dtype, shape, generator, device),
        [Contender(backend, lambda way=way: bind(way)) for backend, way in ways.items()],
        "triton",
        lambda got, expected, _: compare(got, expected, dtype),
    )


def row(op: str, dtype: str, name: str, times: dict[str, list[float]]) -> dict:
    """The winner, and how many times as long the other takes."""
    ratio = results.ratio(times["triton"], times["cuda"]).median
    winner = "cuda" if ratio >= 1 else "triton"
    return {"op": op, "dtype": dtype, "class": name, "backend": winner, "ratio": round(max(ratio, 1 / ratio), 3)}


def measure(options: Options, only: tuple[str, ...]) -> tuple[list[dict], list[str]]:
    """Rows of the table, and why others are missing."""
    found, failures = [], []
    origin = {"device": "dry run" if options.dry else results.device_name(options.device), "commit": results._commit()}
    for op, dtype, name, shape in problems(only, options.dry):
        ways = _library.ways_of(op, ("triton",) if options.dry else ("cuda", "triton"))
        if options.dry:
            ways["cuda"] = eager(op)
        torch.backends.cudnn.conv.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
        made = case(op, dtype, name, shape, ways, options.device)
        timings = run(made, options)
        if timings.errors:
            failures += [f"{made.setting.label}: {who}: {why}" for who, why in timings.errors.items()]
            continue
        found.append(row(op, dtype, name, timings.times) | origin)
        medians = ", ".join(f"{who} {1e3 * Spread.of(t).median:.1f} µs" for who, t in sorted(timings.times.items()))
        options.log(f"{made.setting.label}: {medians}")
    return found, failures


def eager(op: str) -> Callable:
    """The definition of an op, in place of the CUDA kernels that a dry run has not."""
    from equifast import ops

    module = op.removesuffix("_backward")
    entry = {"orbit_inner": "_inner_eager"}.get(op, "_backward_eager" if op.endswith("_backward") else "_eager")
    file = {"orbit_inner": "orbit_average"}.get(module, module)
    return getattr(sys.modules[f"{ops.__name__}.{file}"], entry)


def chosen_ops(given: str) -> tuple[str, ...]:
    """Of a comma-separated list of ops and sets of them."""
    return tuple(op for name in filter(None, given.split(",")) for op in SETS.get(name, (name,)))


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.backends", description="Which GPU backend is faster?"
    )
    parser.add_argument("--only", default="", help=f"comma-separated: ops, or {', '.join(SETS)}; default: all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--table", type=Path, default=selection.TABLE, help="the file that gets the rows")
    parser.add_argument("--once", action="store_true", help="run each once on both, for a profiler; write nothing")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU, on tiny tensors; write nothing")
    chosen = parser.parse_args(given)
    only = chosen_ops(chosen.only)
    if unknown := [op for op in only if op not in selection.OPS]:
        parser.error(f"--only: {unknown[0]!r} is no op of both backends; there are {', '.join(selection.OPS)}")
    if chosen.dry_run and not backends.INTERPRETING:
        environment = os.environ | {"TRITON_INTERPRET": "1", "EQUIFAST_BACKEND": "triton"}
        given = sys.argv[1:] if given is None else given
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.gpu.backends", *given], environment)
    warnings.filterwarnings("ignore", module="torch")
    if not chosen.dry_run and (missing := {b: why for b in ("cuda", "triton") if (why := backends.available()[b])}):
        print("Both backends are needed: " + "; ".join(f"{name}: {why}" for name, why in missing.items()))
        return 1
    if chosen.once:
        once(only)
        return 0
    device = torch.device("cpu" if chosen.dry_run else "cuda")
    rounds = 1 if chosen.dry_run else chosen.rounds
    options = Options(device, rounds, log=lambda line: print(line, file=sys.stderr, flush=True), dry=chosen.dry_run)
    found, failures = measure(options, only)
    if not chosen.dry_run:
        selection.store(found, chosen.table)
    print("\n".join(f"no row: {line}" for line in failures))
    print(f"{len(found)} rows{', none stored' if chosen.dry_run else f' in {chosen.table}'}, {len(failures)} failures.")
    return 1 if failures else 0


def once(only: tuple[str, ...]) -> None:
    """Of each op the middle class, in float32 and bfloat16, on both backends."""
    for op, dtype, name, shape in problems(only, False):
        if dtype in ("float32", "bfloat16") and name == selection.OPS[op].scale.names[-2]:
            args = inputs(op, dtype, shape, torch.Generator().manual_seed(0), torch.device("cuda"))
            for way in _library.ways_of(op, ("cuda", "triton")).values():
                with torch.inference_mode():
                    way(*args)
    torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
