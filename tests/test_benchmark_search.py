"""The contenders of the benchmarks of searches and averages compute the same."""

from dataclasses import replace

import pytest
import torch

from benchmarks.harness import turns
from benchmarks.harness.measure import Options, run
from benchmarks.harness.settings import Setting
from benchmarks.pipeline import average, search
from equifast import act

CPU = torch.device("cpu")
SMALL = Setting("C8", batch=8, size=40, resize=32, layers=2, vector=16)


def agreeing(case):
    """The contenders whose output was compared and was right; none may be wrong."""
    found = run(case, Options(CPU, rounds=1, dry=True))
    assert all("No module" in why or "not installed" in why for why in found.errors.values()), found.errors
    return set(found.times)


@pytest.mark.parametrize("label", ["", search.ALONE])
def test_searches(label):
    found = agreeing(search.case(replace(SMALL, label=label), CPU))
    assert found >= {"eager", "equifast-cpu"} and (search.GRID in found) == (not label)


@pytest.mark.parametrize("label", ["2 members", f"{average.ALONE}, 2 members"])
@pytest.mark.parametrize("group", ["C4", "C8"])
def test_averages(group, label):
    setting = replace(SMALL, group=group, label=label, size=SMALL.resize)  # here the network sees the whole image
    found = agreeing(average.case(setting, 2, CPU))
    assert found >= {"eager", "equifast-cpu"}


@pytest.mark.parametrize("name", turns.TURNS)
def test_turns_are_counterclockwise_about_the_centre(name):
    try:
        turn = turns.TURNS[name]()
    except turns.Unavailable as problem:
        pytest.skip(str(problem))
    x, ids = torch.rand(4, 2, 9, 9), torch.tensor([0, 1, 3, 6])
    expected = act(x, ids, group="C8", padding_mode="zeros")
    torch.testing.assert_close(turn(x, ids * 45.0), expected, atol=1e-4, rtol=0)
