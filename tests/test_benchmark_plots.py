"""Comparisons and plots of benchmark results, on results that are made up here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import __main__ as cli
from benchmarks import scaling
from benchmarks.harness import compare, parity, plots, report, results
from benchmarks.harness.measure import Options
from benchmarks.harness.settings import Setting

CONDITIONS = {"device": "d", "threads": 2, "quick": False, "kind": "cpu", "commit": "c", "date": "today"}


def spread(median: float, width: float = 0.02) -> dict:
    return {"median": median, "q1": median * (1 - width), "q3": median * (1 + width)}


def run(rows: dict[str, dict], measure: str = "orbit", **conditions) -> dict:
    """One setting, with the ratios of some contenders to ours."""
    setting = {"measure": measure, "setting": "C4 16×3×8×8", "group": "C4", "label": "", "unit": "ms"}
    others = [setting | {"contender": name, **spread(1.0), "ratio": ratio} for name, ratio in rows.items()]
    return {
        "conditions": CONDITIONS | conditions,
        "rows": [setting | {"contender": "equifast-cpu", **spread(1.0)}, *others],
        "verdicts": [],
    }


BEFORE = run({"eager": spread(4.0), "equiadapt": spread(8.0), "limit": spread(0.5)})


@pytest.mark.parametrize(
    ("now", "reported"),
    [
        ({"eager": spread(4.0), "equiadapt": spread(8.0), "limit": spread(0.5)}, False),  # the same
        ({"eager": spread(2.0), "equiadapt": spread(4.0), "limit": spread(0.25)}, True),  # we take twice as long
        ({"eager": spread(8.0), "equiadapt": spread(16.0), "limit": spread(1.0)}, False),  # half as long
        ({"eager": spread(2.0), "equiadapt": spread(8.0), "limit": spread(0.5)}, False),  # eager became faster
        ({"eager": spread(2.0, 1.2), "equiadapt": spread(4.0, 1.2), "limit": spread(0.25, 1.2)}, False),  # noise
        (
            {"eager": spread(3.84, 0), "equiadapt": spread(7.68, 0), "limit": spread(0.48, 0)},
            False,
        ),  # 4 %, below `LEAST`
        ({"eager": spread(3.6), "equiadapt": spread(7.2), "limit": spread(0.45)}, True),  # 10 %
        ({"eager": spread(2.0)}, True),  # the others were not run
        ({"openvino": spread(0.1)}, False),  # nobody ran in both
        ({}, False),
    ],
)
def test_a_regression_is_a_loss_against_everybody_beyond_noise(now, reported):
    lines = compare.regressions(BEFORE, run(now))
    assert len(lines) == reported
    assert all(line.startswith("orbit, C4 16×3×8×8: takes ") and "eager 4× (3.92–4.08) → " in line for line in lines)


def test_noise_of_the_earlier_run_counts_too():
    noisy = run({"eager": spread(4.0, 0.6)})
    assert not compare.regressions(noisy, run({"eager": spread(2.0)}))
    assert compare.regressions(noisy, run({"eager": spread(1.0)}))


def test_a_failure_of_ours_is_a_regression():
    now = run({})
    now["rows"][0] = now["rows"][0] | {"error": "wrong output"}
    assert compare.regressions(BEFORE, now) == ["orbit, C4 16×3×8×8: fails now: wrong output"]
    others = run({})
    others["rows"].append(others["rows"][0] | {"contender": "eager", "error": "not installed"})
    assert not compare.regressions(BEFORE, others)


def test_what_the_new_run_left_out_is_no_regression():
    assert not compare.regressions(BEFORE, run({"eager": spread(1.0)}, measure="act"))


@pytest.mark.parametrize(
    ("now", "status", "says"),
    [
        (run({"eager": spread(4.0)}), 0, "cpu.json: 0 regressions in 1 settings, against c"),
        (run({"eager": spread(1.0)}), 1, "* orbit, C4 16×3×8×8: takes 4 times as long: eager 4× (3.92–4.08) → 1×"),
        (run({"eager": spread(1.0)}, threads=1), 2, "cpu.json: not compared: threads was 2, and is 1"),
        (run({"eager": spread(1.0)}, device="e"), 2, "cpu.json: not compared: device was d, and is e"),
        (run({"eager": spread(1.0)}, quick=True), 2, "cpu.json: not compared: quick was False, and is True"),
    ],
)
def test_the_command_compares_with_the_last_commit(now, status, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "committed", lambda name: BEFORE if name == "cpu.json" else None)
    results.write(tmp_path / "cpu.json", now)
    assert cli.main(["--compare", str(tmp_path)]) == status
    assert says in capsys.readouterr().out
    results.write(tmp_path / "another.json", now)
    assert cli.main(["--compare", str(tmp_path)]) == status
    assert "another.json: not compared: no committed results" in capsys.readouterr().out


def test_the_stored_results_are_those_of_the_last_commit_or_newer():
    """Reading them through git gives a run like the stored one, and nothing for a file that isn't there."""
    if (found := compare.committed("cpu.json")) is None:
        pytest.skip("no git here, or no commit")
    assert set(found) >= {"conditions", "rows", "verdicts"} and compare.ratios(found)
    assert compare.committed("none.json") is None


def test_a_measure_rests_on_the_tests_of_its_operation():
    def names(measure):
        return {path.stem for path in parity.tests_of(measure)}

    assert names("orbit") == {"test_orbit"}
    assert names("orbit_conv2d, backward (weight)") == {"test_orbit_conv2d", "test_orbit_conv2d_backward"}
    assert names("orbit_scores and losses") == {"test_orbit_scores"}
    assert names("canonicalize") >= names("orbit") | names("act") | {"test_canonicalization"}
    assert names("orbits") == names("canonicalize")


def test_red_files_are_those_with_a_failing_test(monkeypatch, tmp_path):
    (tmp_path / "tests").mkdir()
    for name, text in {
        "good": "def test_x(): pass",
        "bad": "def test_x(): assert 0",
        "broken": "import nothing",
    }.items():
        (tmp_path / "tests" / f"test_{name}.py").write_text(text)
    monkeypatch.setattr(parity, "ROOT", tmp_path)
    files = sorted((tmp_path / "tests").glob("test_*.py"))
    bad, broken, good = files
    assert parity.red(files, "cpu") == {bad, broken}
    assert parity.red([good], "cpu") == set()
    monkeypatch.setitem(parity.RUNS, "cpu", ("nothing_such",))
    assert parity.red(files, "cpu") == set(files)  # what can't be tested may not be drawn


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Results of orbit and act, of a pipeline, and of scaling."""
    both = run({"eager": spread(4.0), "equiadapt": spread(8.0), "limit": spread(0.5)})
    both["rows"] += run({"eager": spread(0.5)}, measure="act, exact")["rows"]
    results.write(tmp_path / "results" / "cpu.json", both)
    grown = {"conditions": CONDITIONS, "verdicts": [], "rows": []}
    for name in ("batch", "size", "order"):
        for at in (1, 2, 4):
            rows = run({"eager": spread(at), "equiadapt": spread(2 * at)}, measure=f"canonicalize, by {name}")["rows"]
            grown["rows"] += [row | {"at": at} for row in rows]
    results.write(tmp_path / "results" / "scaling" / "cpu.json", grown)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    return tmp_path


PLOTS = {"benchmarks_cpu_ratios.png", "benchmarks_cpu_limits.png", "benchmarks_cpu_scaling.png", "counted_limits.png"}


def test_plots_are_drawn_where_the_tests_pass(stored, monkeypatch, capsys):
    monkeypatch.setattr(parity, "red", lambda files, kind: set())
    assert plots.main(stored) == 0
    assert {path.name for path in stored.glob("*.png")} == PLOTS
    for plot in plots.plots():
        image = Image.open(stored / plot.name)
        assert image.size > (100, 100) and image.text["Source"] == plot.digest
    results.write(stored / "results" / "cpu.json", run({"eager": spread(3.0)}))
    now = {plot.name: plot.digest for plot in plots.plots()}
    old = {name for name, digest in now.items() if Image.open(stored / name).text["Source"] != digest}
    assert old == {"benchmarks_cpu_ratios.png", "benchmarks_cpu_limits.png"}


@pytest.mark.parametrize("plot", plots.plots(), ids=lambda plot: plot.name)
def test_the_published_plots_are_of_the_stored_results(plot):
    """Where one isn't, ``python -m benchmarks --plots`` draws it anew."""
    assert Image.open(results.ROOT / "docs" / plot.name).text["Source"] == plot.digest


def test_no_plot_is_drawn_of_an_operation_that_is_wrong(stored, monkeypatch, capsys):
    """The ratios and the limits have rows of `act`, and the pipeline rests on every operation."""
    wrong = parity.LAWS["act"]
    monkeypatch.setattr(parity, "red", lambda files, kind: {wrong} & files if kind == "cpu" else set())
    assert plots.main(stored) == 1
    assert {path.name for path in stored.glob("*.png")} == {"counted_limits.png"}
    assert "not drawn: benchmarks_cpu_ratios.png, since tests fail (cpu): test_act.py" in capsys.readouterr().out
    monkeypatch.setattr(
        parity, "red", lambda files, kind: {parity.LAWS["orbit_scores"]} & files if kind == "cpu" else set()
    )
    assert plots.main(stored) == 1
    assert {path.name for path in stored.glob("*.png")} == PLOTS - {"benchmarks_cpu_scaling.png"}


def test_bars_show_what_is_stored(stored):
    """The ratios as they are drawn: the published package and the quickest other one, and a loss to the left of 1."""
    run_ = json.loads((stored / "results" / "cpu.json").read_text())
    figure = plots.ratios(run_)
    assert figure.get_supxlabel() == "d; threads: 2; commit c; today"
    left, right = figure.axes
    assert not left.patches and [tick.get_text() for tick in right.get_yticklabels()] == [
        "orbit, C4 16×3×8×8",
        "act, exact, C4 16×3×8×8",
    ]
    assert [round(bar.get_width() + 1, 3) for bar in right.patches] == [8.0, 4.0, 0.5]
    whiskers = [
        tuple(line.get_xdata())
        for line in right.lines
        if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert whiskers[0] == pytest.approx((7.84, 8.16))
    (bar,) = plots.limits(run_).axes[0].patches
    assert bar.get_width() + 1 == 0.5


def test_predictions_are_called_so_and_come_from_the_page():
    page = plots.COUNTED.read_text()
    (axes,) = plots.predicted(page).axes
    assert "predicted" in axes.get_title(loc="left") and "not measured" in axes.get_title(loc="left")
    h100, rtx = (line.get_xdata() for line in axes.lines[:2])
    assert len(h100) == len(rtx) > 40 and max(h100) <= 1.1
    with pytest.raises(ValueError, match="expected a table of predicted times"):
        plots.predicted("# nothing")


def test_settings_of_a_series_differ_in_what_grows():
    for name, settings in scaling.SERIES.items():
        assert len({getattr(setting, name) for setting in settings}) == len(settings) > 3
        others = {"batch", "size", "group"} - {name, "group" if name == "order" else name}
        assert all(len({getattr(setting, other) for setting in settings}) == 1 for other in others)
        # A crop that is off the centre by half a pixel is one that ours makes larger by one.
        assert all((setting.size - setting.crop) % 2 == 0 for setting in settings)


def test_scaling_measures_every_series(monkeypatch):
    small = {"size": 40, "resize": 32, "layers": 2, "vector": 16}
    series = {"batch": [Setting("C4", batch=2, **small)], "order": [Setting("C8", batch=1, **small)]}
    monkeypatch.setattr(scaling, "SERIES", series)
    rows = scaling.measure(Options(torch.device("cpu"), rounds=1))
    assert {(row["measure"], row["at"]) for row in rows} == {
        ("canonicalize, by batch", 2),
        ("canonicalize, by order", 8),
    }
    assert not [row for row in rows if "error" in row] and sum("ratio" in row for row in rows) == 4


def test_the_published_plots_are_small():
    shown = [path for path in Path(report.DOCS.parent).glob("*.png") if path.name in PLOTS]
    assert all(path.stat().st_size < 150_000 for path in shown)
