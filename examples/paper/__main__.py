"""The command of the paper's experiments: run what has no result yet, then write the page."""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two spinning threads crawl where others run, too

import torch

from . import experiment, plan, report
from .storage import Store


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m paper", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the images, one seed: less than 5 minutes")
    parser.add_argument("--only", default="", metavar="TEXT", help="only what has an id that begins so; no page")
    parser.add_argument("--list", action="store_true", help="print all ids, and which have a result")
    parser.add_argument("--report", action="store_true", help="run nothing, make the page from what is stored")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    budget = plan.QUICK if options.quick else plan.FULL
    store = Store(budget.name)
    if options.list:
        for item in plan.everything(budget):
            print(f"{'done' if store.has(item.id) else '':6}{item.id}")
        return
    if not options.report:
        experiment.everything(budget, store, options.only)
    if options.only:
        return
    print(report.page(store.all()))
    report.write(report.published())


if __name__ == "__main__":
    main()
