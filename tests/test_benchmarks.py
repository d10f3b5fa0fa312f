"""The benchmarks' own arithmetic: rounds, ratios, verdicts and targets."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import __main__ as cli
from benchmarks.harness import eager, report, results
from benchmarks.harness.measure import (
    Case,
    Contender,
    Options,
    direct,
    largest_difference,
    run,
)
from benchmarks.harness.settings import Setting
from benchmarks.harness.targets import TARGETS, Target
from benchmarks.harness.timings import Spread, Timings, Work
from benchmarks.ops import act, orbit_scores
from benchmarks.pipeline import memory

from .trials import CPU, numbers, some_timings, trial


def test_spread():
    assert Spread.of([4.0]) == Spread(4.0, 4.0, 4.0)
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)


def test_ratio_is_taken_within_rounds():
    # A machine twice as slow in the second round doubles both: the ratio doesn't see it.
    assert results.ratio([4.0, 8.0, 4.0], [2.0, 4.0, 2.0]) == Spread(2.0, 2.0, 2.0)


def test_run_times_every_contender_once_a_round():
    found = trial(Contender("eager", lambda: direct(torch.neg)), Contender("ours", lambda: direct(lambda x: -x)))
    assert {name: len(times) for name, times in found.times.items()} == {"eager": 3, "ours": 3}
    assert not found.errors
    assert all(time > 0 for times in found.times.values() for time in times)


def test_a_case_may_count_the_work_of_the_processor_alone():
    """Sleep is none, and passes by the clock."""
    entries = [Contender("eager", lambda: direct(lambda x: time.sleep(0.02)), checked=False)]
    case = Case("trial", Setting("C4"), numbers, entries, "eager", lambda got, expected, name: None)
    by_clock, by_work = (run(replace(case, clock=clock), Options(CPU, 2)) for clock in ("stream", "process"))
    assert min(by_clock.times["eager"]) >= 20 > 10 > max(by_work.times["eager"])


def test_run_takes_turns_on_fresh_inputs():
    seen: dict[str, list[float]] = {"eager": [], "ours": []}
    order: list[str] = []

    def watch(name: str):
        def bind(x: torch.Tensor):
            seen[name].append(x.sum().item())
            order.append(name)
            return lambda: x

        return bind

    trial(*(Contender(name, partial(watch, name)) for name in seen))
    assert seen["eager"] == seen["ours"]
    assert len(set(seen["eager"])) == len(seen["eager"]) == 5
    assert order[-6:] == ["eager", "ours", "ours", "eager", "eager", "ours"]


def test_run_gives_no_time_to_a_wrong_output_or_a_failure():
    def broken():
        raise RuntimeError("no compiler at /usr/local/bin/cc")

    def fails(x):
        raise ValueError("not today")

    found = trial(
        Contender("eager", lambda: direct(torch.neg)),
        Contender("wrong", lambda: direct(torch.abs)),
        Contender("broken", broken),
        Contender("failing", lambda: direct(fails)),
        Contender("limit", lambda: direct(torch.clone), checked=False),
    )
    assert set(found.times) == {"eager", "limit"}
    assert found.errors["wrong"].startswith("wrong output: differs by")
    assert found.errors["failing"] == "ValueError: not today"
    assert found.errors["broken"] == "RuntimeError: no compiler at …"


def test_run_checks_nothing_against_a_missing_reference():
    def broken():
        raise RuntimeError("gone")

    found = trial(Contender("eager", broken), Contender("ours", lambda: direct(torch.neg)))
    assert not found.times
    assert found.errors["ours"].startswith("unchecked")


def test_largest_difference_refuses_nan_and_shapes():
    x = torch.zeros(2)
    assert largest_difference(x, x, 0.0) is None
    assert "differs" in largest_difference(x * float("nan"), x, 1.0)
    assert "shape" in largest_difference(x[:1], x, 1.0)


def test_run_compares_a_tagged_contender_with_the_expected_one_of_its_tag():
    def compare(got, expected, name):
        return largest_difference(got, expected, 1e-6)

    names = {"eager|a": torch.neg, "eager|b": torch.abs, "ours|a": torch.neg, "ours|b": torch.neg, "other": torch.neg}
    entries = [Contender(name, lambda way=way: direct(way)) for name, way in names.items()]
    found = run(Case("trial", Setting("C4"), numbers, entries, "eager|a", compare), Options(CPU, 1))
    assert set(found.times) == {"eager|a", "eager|b", "ours|a", "other"}
    assert found.errors["ours|b"].startswith("wrong output: differs by")


@pytest.fixture
def timings() -> Timings:
    return some_timings()


def test_rows_and_verdicts(timings):
    setting = Setting("C4")
    rows = {row["contender"]: row for row in results.rows("canonicalize", setting, timings)}
    assert list(rows) == ["equiadapt", "eager", "compile", "equifast-cpu", "floor", "limit", "other"]
    assert rows["equiadapt"]["ratio"]["median"] == 9.5
    assert "ratio" not in rows["equifast-cpu"]
    assert rows["other"]["error"] == "no such thing"
    first, second, third = results.verdicts("canonicalize", setting, timings, "cpu")
    assert (first["against"], first["median"], first["target"], first["met"]) == ("equiadapt", 9.5, 10.0, False)
    assert (second["against"], second["median"], second["met"]) == ("compile", 1.6, False)
    assert (third["against"], third["median"], third["wish"], third["met"]) == ("floor", 1.25, 1.3, True)
    assert json.loads(json.dumps([first, *rows.values()]))


def test_verdicts_say_why_there_is_none(timings):
    timings.errors["equiadapt"] = "not installed"
    del timings.times["equiadapt"]
    first, *_ = results.verdicts("canonicalize", Setting("C4"), timings, "cpu")
    assert first["met"] is None
    assert first["error"] == "equiadapt: not installed"


def test_targets_at_most(timings):
    (found,) = results.verdicts("act, exact", Setting("C4"), timings, "cpu")
    assert (found["median"], found["target"], found["met"]) == (2.0, 1.0, False)


def test_targets_are_each_for_something_measured():
    named = {value for module in cli.MEASURES.values() for value in vars(module).values() if isinstance(value, str)}
    named |= set(act.ELEMENTS)
    assert {target.measure for target in TARGETS} <= named
    assert Target("a", ("b",), 1.0, 2.0).number("cuda") == 2.0


@pytest.fixture
def at_once(monkeypatch):
    """Measures are run without running anything: every contender takes a millisecond."""

    def at_once(case, options):
        return Timings({c.name: [1.0] for c in case.contenders}, work=case.work).settle()

    for module in cli.MEASURES.values():
        if getattr(module, "run", None) is run:
            monkeypatch.setattr(module, "run", at_once)
    monkeypatch.setattr(memory, "in_subprocess", lambda *args: 1.0)
    monkeypatch.setattr(eager, "quickest_act", lambda *args: eager.act_by_grid)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_first_run_has_the_main_setting_of_each_measure(kind, at_once):
    every, first = (cli.measure(Options(CPU, 1, dry=kind == "cuda", first=first))[0] for first in (False, True))
    assert [row for row in every if row in first] == first
    assert {row["measure"] for row in first} == {row["measure"] for row in every}
    for measure in {row["measure"] for row in first}:
        (group,) = {row["group"] for row in first if row["measure"] == measure}
        assert group == next(row["group"] for row in every if row["measure"] == measure)
    assert len(first) < len(every) / 2


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_target_of_a_device_is_judged_there(kind, at_once):
    rows, verdicts = cli.measure(Options(CPU, 1, dry=kind == "cuda"))
    assert not [row for row in rows if "error" in row]
    wanted = [t for t in TARGETS if t.number(kind) is not None]
    judged = {(v["measure"], v["target"], v["against"]) for v in verdicts}
    for t in wanted:
        assert judged & {(t.measure, t.number(kind), name) for name in (*t.against, t.opponent)}, t
    assert judged <= {(t.measure, t.number(kind), name) for t in wanted for name in (*t.against, t.opponent)}
    assert all(v["met"] is not None for v in verdicts)


def test_a_target_in_microseconds():
    setting = Setting("C8", batch=512, size=1, label="CUDA graph")
    found = Timings({"equifast-triton": [0.012], "eager": [0.08], "limit": [0.002]}, work=Work(4_000_000, 0, 8_000_000))
    (v,) = results.verdicts(orbit_scores.FORWARD, setting, found, "cuda")
    assert (v["median"], v["unit"], v["target"], v["met"]) == (12.0, "µs", 15.0, True)
    ours = results.rows(orbit_scores.FORWARD, setting, found, "µs", 1e3)[1]
    assert (ours["contender"], ours["median"], ours["unit"]) == ("equifast-triton", 12.0, "µs")
    assert ours["GB/s"] == pytest.approx(4e6 / 12e-6 / 1e9)
    assert ours["of limit"] == pytest.approx(2 / 12)
    run_ = {"conditions": results.conditions(CPU, 1, quick=False) | {"kind": "cuda"}, "rows": [ours], "verdicts": [v]}
    page = report.page([run_])
    assert "| time | ≤ 15 µs | 12 µs | yes |" in page
    assert "333 GB/s, 16.7 % of the limit" in page


def test_targets_of_a_gpu_are_listed_until_measured():
    unmeasured = report.unmeasured()
    assert unmeasured.count(report.NOT_YET) == sum(t.cuda is not None for t in TARGETS)
    assert "| host overhead | all | time | ≤ 20 µs | not yet measured |" in unmeasured
