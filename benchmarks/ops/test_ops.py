"""pytest-benchmark cases of single ops, on small batches: ``pytest benchmarks --benchmark-only``.

For the cost of a call rather than of the work in it; ratios for publication come from ``python -m benchmarks``.
"""

from __future__ import annotations

import pytest
import torch

from ..harness.measure import COMPILE, Case
from ..harness.settings import GROUPS, Setting, quick
from . import act, crop_resize, estimator, orbit, orbit_conv2d, orbit_logit_scores, orbit_scores

pytest.importorskip("pytest_benchmark")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cases() -> dict[str, Case]:
    found = {}
    for group in GROUPS:
        small = quick(Setting(group, size=96, layers=0))
        whole = quick(Setting(group, layers=0))
        found[f"orbit-{group}"] = orbit.case(small, DEVICE)
        found[f"orbit_conv2d-{group}"] = orbit_conv2d.forward(small, 16, 7, 2, DEVICE)
        found[f"orbit_conv2d-backward-{group}"] = orbit_conv2d.backward(small, 16, 7, 2, DEVICE)
        found[f"act-{group}"] = act.case("act", whole, tuple(range(whole.order)), DEVICE)
        found[f"estimator-{group}"] = estimator.case(estimator.BACKWARD, whole, DEVICE)
    images = quick(Setting("C4", layers=0))
    found["crop_resize"] = crop_resize.forward(images, DEVICE)
    found["crop_resize-backward"] = crop_resize.backward(images, DEVICE)
    found["orbit_scores"] = orbit_scores.case(quick(orbit_scores.SETTING), DEVICE)
    found["orbit_logit_scores"] = orbit_logit_scores.case(quick(orbit_logit_scores.SETTINGS[0]), DEVICE)
    return found


CASES = cases()
PAIRS = [(case, c.name) for case, made in CASES.items() for c in made.contenders if c.name != COMPILE]


@pytest.mark.parametrize(("case", "contender"), PAIRS)
def test_op(benchmark, case: str, contender: str) -> None:
    made = CASES[case]
    bind = next(c for c in made.contenders if c.name == contender).build()
    thunk = bind(*made.inputs(torch.Generator().manual_seed(0)))

    def timed() -> None:
        thunk()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize(DEVICE)

    timed()
    benchmark.group = case
    benchmark(timed)
