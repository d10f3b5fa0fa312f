"""``python -m benchmarks``: measure, compare with the targets, store, write docs/benchmarks.md and the README table."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import torch

from equifast import backends

from . import ops, pipeline
from .harness import compare, nvidia_smi, report, results
from .harness.measure import COMPILE, EXPORTED, Options, reason

#: What can be measured: a file of `pipeline` or of `ops` each.
MEASURES = {
    module.name: import_module(f"{room.__name__}.{module.name}")
    for room in (pipeline, ops)
    for module in iter_modules(room.__path__)
    if not module.name.startswith("test_")
}

#: Contenders that a dry run can do without, by how their names begin.
OTHERS = ("equiadapt", COMPILE, *EXPORTED)

#: Of a run that isn't done, or was cut off: all rows so far. ``python -m benchmarks.harness.report FILE`` prints it.
UNFINISHED = ".unfinished"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of equifast.")
    parser.add_argument("--only", default="", help=f"comma-separated, of {', '.join(MEASURES)}; default: all")
    parser.add_argument("--rounds", type=int, help="timed rounds (default 7; 3 with --quick)")
    parser.add_argument("--first", action="store_true", help="of each measure its first setting alone, the main one")
    parser.add_argument("--quick", action="store_true", help="an eighth of the batch, no torch.compile: a minute")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="what a GPU would run, on tiny images, on the CPU, kernels interpreted by Triton: does all of it run?",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="?",
        const=report.RESULTS,
        metavar="FOLDER",
        help="measure nothing: does a folder of results (default: benchmarks/results) have regressions against the "
        "last commit? Exit status 1 if so",
    )
    parser.add_argument("--plots", action="store_true", help="measure nothing: draw the results, if all tests pass")
    parser.add_argument("--out", type=Path, help="folder for the JSON; default: benchmarks/results for a full run")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", type=torch.device, help="default: cuda if there is one, else cpu")
    options = parser.parse_args(given)
    options.only = tuple(filter(None, options.only.split(",")))
    for name in options.only:
        if name not in MEASURES:
            parser.error(f"--only: {name!r} is none of {', '.join(MEASURES)}")
    return options


def dry_run(only: tuple[str, ...], first: bool = False) -> int:
    """1 if anything failed. Times are of the interpreter and mean nothing."""
    from .gpu import interpreted

    interpreted.patch()
    options = Options(
        torch.device("cpu"), 1, only=only, log=lambda line: print(line, file=sys.stderr), dry=True, first=first
    )
    rows, verdicts = measure(options)
    failed = [row for row in rows if "error" in row and not row["contender"].startswith(OTHERS)]
    failed += [v for v in verdicts if v["met"] is None and not v["error"].startswith(OTHERS)]
    for row in failed:
        print(f"failed: {row['measure']}, {row['setting']}, {row['contender']}: {row['error']}")
    print(f"Dry run on tiny images, kernels interpreted: {len(rows)} rows, {len(failed)} failures; nothing was stored.")
    return 1 if failed else 0


def measure(
    options: Options,
    store: Callable[[list[results.Row], list[results.Row]], None] = lambda rows, verdicts: None,
    done: Callable[[str], None] = lambda name: None,
) -> tuple[list[results.Row], list[results.Row]]:
    """All rows and verdicts; a measure that fails as a whole says so in a row.

    ``store`` gets what there is so far, and ``done`` the name of each measure right after it.
    """
    rows, verdicts = [], []
    for name in options.only or MEASURES:
        begin = time.perf_counter()
        try:
            for more_rows, more_verdicts in MEASURES[name].measure(options):
                rows += more_rows
                verdicts += more_verdicts
                store(rows, verdicts)
                torch.compiler.reset()
        except Exception as error:
            rows.append({"measure": name, "setting": "all", "contender": "all", "error": reason(error)})
        done(name)
        options.log(f"{name}: {time.perf_counter() - begin:.0f} s")
        store(rows, verdicts)
    return rows, verdicts


def main(given: list[str] | None = None) -> int:
    chosen = arguments(given)
    if chosen.dry_run and not backends.INTERPRETING:
        # Triton and equifast read these as they are imported.
        environment = os.environ | {"TRITON_INTERPRET": "1", "EQUIFAST_BACKEND": "triton"}
        given = sys.argv[1:] if given is None else given
        os.execve(sys.executable, [sys.executable, "-m", __package__, *given], environment)
    if chosen.compare is not None:
        return compare.main(chosen.compare)
    if chosen.plots:
        from .harness import plots  # needs matplotlib

        return plots.main()
    torch.set_num_threads(chosen.threads)
    warnings.filterwarnings("ignore", module="torch")
    if chosen.dry_run:
        return dry_run(chosen.only, chosen.first)
    device = chosen.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rounds = chosen.rounds or (3 if chosen.quick else 7)
    options = Options(
        device, rounds, chosen.quick, chosen.only, lambda line: print(line, file=sys.stderr), first=chosen.first
    )
    run = {"conditions": results.conditions(device, rounds, chosen.quick)}
    complete = not (chosen.quick or chosen.first or chosen.only)
    folder = chosen.out or (report.RESULTS if complete else None)
    path = folder / f"{results.slug(device)}.json" if folder is not None else None
    so_far = path.with_suffix(UNFINISHED) if path is not None else None

    def store(rows: list[results.Row], verdicts: list[results.Row]) -> None:
        run.update(rows=rows, verdicts=verdicts)
        if so_far is not None:
            results.write(so_far, run)

    def look(when: str) -> None:
        if device.type == "cuda":
            run.setdefault("states", []).append(nvidia_smi.state(device, when))

    look("before")
    measure(options, store, lambda name: look(f"after {name}"))
    if found := results.configurations():
        run["configurations"] = found
    print(report.page([run]))
    if path is not None:
        results.write(path, run)
        so_far.unlink(missing_ok=True)
    if complete and chosen.out is None:
        report.write(report.load())
    return 0


if __name__ == "__main__":
    sys.exit(main())
