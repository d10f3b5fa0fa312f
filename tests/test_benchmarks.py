"""The benchmarks' own arithmetic, that their contenders compute the same, and what the report says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as cli
from benchmarks.harness import contenders, eager, engines, floor, gradients, published, report, results
from benchmarks.harness.measure import (
    EXPORTED,
    OPENVINO,
    Case,
    Contender,
    Options,
    direct,
    largest_difference,
    run,
)
from benchmarks.harness.network import ConvNetwork, resnet50
from benchmarks.harness.settings import CROP, GROUPS, Setting, further, headline, quick, tiny, weights
from benchmarks.harness.targets import TARGETS, Target
from benchmarks.harness.timings import Spread, Timings, Work
from benchmarks.ops import act, crop_resize, estimator, orbit, orbit_conv2d, orbit_logit_scores, orbit_scores
from benchmarks.pipeline import canonicalize, memory, training, vectors
from equifast.nn import CropResize

CPU = torch.device("cpu")
TINY = {group: Setting(group, batch=3, size=40, resize=32, layers=2, vector=16) for group in GROUPS}
OPTIONS = Options(CPU, rounds=2, quick=True)


def numbers(generator: torch.Generator) -> tuple[torch.Tensor]:
    return (torch.rand(4, generator=generator),)


def trial(*entries: Contender, rounds: int = 3, inputs=numbers) -> Timings:
    def compare(got, expected, name):
        return largest_difference(got, expected, 1e-6)

    case = Case("trial", Setting("C4"), inputs, list(entries), "eager", compare)
    return run(case, Options(CPU, rounds))


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
    times = {
        "equiadapt": [90.0, 100.0],
        "eager": [20.0, 22.0],
        "compile": [15.0, 17.0],
        "limit": [5.0, 5.0],
        "floor": [8.0, 8.0],
    }
    return Timings(times | {"equifast-cpu": [10.0, 10.0]}, {"other": "no such thing"})


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


def test_the_stored_tables_are_the_stored_results():
    assert report.page(report.load()) == report.DOCS.read_text()


def test_a_dry_run_needs_no_gpu():
    command = [sys.executable, "-m", "benchmarks", "--dry-run", "--only", "orbit_scores,act"]
    pytest.importorskip("triton")
    done = subprocess.run(command, cwd=results.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures; nothing was stored" in done.stdout
    assert "CUDA graph" in done.stderr


def test_a_dry_run_fails_with_its_rows(monkeypatch, capsys):
    def fails(options):
        assert options.dry and options.kind == "cuda"
        row = {"measure": "m", "setting": "s", "error": "broken"}
        yield [row | {"contender": name} for name in ("equifast-triton", engines.FREEZING, *EXPORTED)], []

    monkeypatch.setattr(orbit, "measure", fails)
    monkeypatch.setitem(sys.modules, "benchmarks.gpu.interpreted", SimpleNamespace(patch=lambda: None))
    assert cli.dry_run(("orbit",)) == 1
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed")] == [
        "failed: m, s, equifast-triton: broken"
    ]


def test_split_takes_the_network_off():
    times = {"equiadapt": [100.0], "equiadapt: network": [40.0], "equifast-cpu": [30.0], "limit": [2.0]}
    notes = {"equiadapt: network": "two passes"}
    whole, alone, outside = canonicalize.split(Timings(times | {"equifast-cpu: network": [25.0]}, notes=notes))
    assert (whole.notes, alone.notes) == ({}, {"equiadapt": "two passes"})
    assert set(whole.times) == {"equiadapt", "equifast-cpu", "limit"}
    assert alone.times == {"equiadapt": [40.0], "equifast-cpu": [25.0]}
    assert outside.times == {"equiadapt": [60.0], "equifast-cpu": [5.0], "limit": [2.0]}
    times["equifast-cpu: network"] = [50.0]
    times["equiadapt: network"] = [29.0]
    assert canonicalize.split(Timings(times))[2].times["equifast-cpu"] == [2.0]
    times["equifast-cpu: network"] = [20.0]
    times["equiadapt: network"] = [18.0]
    assert canonicalize.split(Timings(times))[2].times["equifast-cpu"] == [12.0]
    assert canonicalize.split(Timings(times), comparable=False)[2].times["equifast-cpu"] == [10.0]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", ["equiadapt", contenders.ours(CPU)])
def test_pipelines_agree(group, name):
    case = canonicalize.case(TINY[group], CPU)
    bind = {c.name: c.build() for c in case.contenders if c.name in (name, "eager", name + canonicalize.SUFFIX)}
    inputs = case.inputs(torch.Generator().manual_seed(0))
    assert case.compare(bind[name](*inputs)(), bind["eager"](*inputs)(), name) is None
    assert bind[name + canonicalize.SUFFIX](*inputs)().shape == (TINY[group].order * 3, 16)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", ["equiadapt", *(f"{contenders.ours(CPU)}|{e}" for e in gradients.ESTIMATORS)])
def test_training_steps_agree(group, name):
    setting = TINY[group]
    inputs = training.drawn(setting, torch.Generator().manual_seed(0), CPU)
    plain = f"eager|{name.partition('|')[2] or 'angle'}"
    got, expected = (training.step(training.pipeline(n, setting, CPU), *inputs) for n in (name, plain))
    assert training.agree(setting, got, expected, name) is None
    assert training.agree(setting, (got[0] * 2, *got[1:]), expected, name).startswith("loss")
    blind = training.step(training.pipeline(name, setting, CPU), inputs[0], torch.zeros_like(inputs[1]))
    if name != "equiadapt" or group != "D4":
        assert training.agree(setting, blind, expected, name).startswith("gradient")


@pytest.mark.parametrize("group", ["C4", "C8", "D4", "D8"])
def test_the_estimators_of_eager_move_images_as_it_does(group):
    setting = Setting(group, batch=16, size=17)
    x, element = setting.images(torch.Generator().manual_seed(0), CPU), torch.arange(16) % setting.order
    probabilities = torch.rand(16, setting.order).softmax(1)
    expected = eager.act_by_element(x, element, group)
    for way in gradients.ESTIMATORS.values():
        torch.testing.assert_close(way(x, probabilities, element, setting), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_the_straight_through_gradient_of_eager_is_that_of_the_expectation(group, keep):
    setting = Setting(group, batch=5, size=9)
    x, grad = (setting.images(torch.Generator().manual_seed(seed), CPU) for seed in range(2))
    p = torch.rand(5, setting.order).softmax(1).requires_grad_()
    expectation = (eager.orbit(x, group).unflatten(0, (-1, 5)) * p.t()[..., None, None, None]).sum(0)
    image = gradients.StraightThrough.apply(x, p, p.argmax(1), group, keep)
    found, expected = (torch.autograd.grad(y, p, grad)[0] for y in (image, expectation))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", ["equiadapt", contenders.ours(CPU)])
def test_vectors_agree(group, name):
    setting = Setting(group, batch=3, size=32, resize=32, layers=2, vector=16)
    case = vectors.case(setting, CPU)
    inputs = case.inputs(torch.Generator().manual_seed(0))
    got, expected = (next(c for c in case.contenders if c.name == n).build()(*inputs)() for n in (name, "eager"))
    assert case.compare(got, expected, name) is None
    assert "differs" in case.compare(got.roll(3, 0), expected, name)


@pytest.mark.parametrize("group", GROUPS)
def test_vectors_inside_in_bfloat16_agree(group):
    setting = Setting(group, batch=3, size=32, resize=32, layers=2, vector=16, label=vectors.NARROW)
    case = vectors.case(setting, CPU)
    inputs = case.inputs(torch.Generator().manual_seed(0))
    found = {c.name: c.build()(*inputs)() for c in case.contenders if c.name != OPENVINO}
    assert set(found) == {"eager", "eager, bfloat16", contenders.ours(CPU)}
    for name, got in found.items():
        assert got.dtype == torch.float32
        assert case.compare(got, found["eager"], name) is None
        assert "differs" in case.compare(got.roll(3, 0), found["eager"], name)


def test_freezing_is_on_while_the_first_call_compiles(monkeypatch):
    told = []

    def compiled(function, **options):
        def call(*inputs):
            told.append(torch._inductor.config.freezing)
            return function(*inputs)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    images = torch.rand(3, 3, 32, 32)
    for kind, expected in ((contenders.Compiled, [False, False]), (engines.Frozen, [True, False])):
        vectors_of = kind(TINY["C4"], CPU).train(False).vectors
        torch.testing.assert_close(vectors_of(images), vectors_of(images))
        assert told == expected
        told.clear()


def test_a_missing_engine_is_told(monkeypatch):
    for name in EXPORTED:
        monkeypatch.setitem(sys.modules, name, None)
    found = run(vectors.case(Setting("C4", batch=1, size=32, resize=32, layers=2), CPU), OPTIONS)
    for name in EXPORTED:
        assert name in found.errors[name] and name not in found.times


def test_the_floor_is_the_quickest_layer_and_a_copy():
    setting = Setting("C4", batch=8)
    flops = [layer.flops for layer in floor.layers(setting).values()]
    sides = [(45, 16, 3), (20, 16, 16), (8, 32, 16)]
    convolutions = [2 * floor.ROWS * side**2 * out * channels * 49 for side, out, channels in sides]
    assert flops == [*convolutions, 2 * floor.ROWS * 32 * 64 * 128]
    names = list(floor.layers(setting))
    # The second layer is the quickest of the first round, the first one of the second: 1e9 and 2e9 FLOP a millisecond.
    rates = dict(zip(names, [(0.5, 2.0), (1.0, 0.5), (0.1, 0.1), (0.2, 0.2)], strict=True))
    times = {n: [f / (r * 1e9) for r in rates[n]] for n, f in zip(names, flops, strict=True)}
    found = Timings(times | {floor.COPY: [3.0, 4.0], "eager": [1.0, 1.0]})
    floor.put(setting, found)
    whole = 4 * 8 * sum(flops) / floor.ROWS / 1e9
    assert set(found.times) == {"eager", "floor"}
    assert found.times["floor"] == pytest.approx([whole + 3.0, whole / 2 + 4.0])
    assert "GFLOP/s, copy 3.5 ms" in found.notes["floor"]


def test_the_floor_is_measured_beside_the_whole():
    setting = TINY["C4"]
    parts = floor.contenders(setting, CPU)
    x = torch.rand(setting.shape)
    for part in parts:
        assert not part.checked
        assert part.build()(x)() is not None
    found = run(Case("trial", setting, lambda g: (torch.rand(setting.shape, generator=g),), parts, "", max), OPTIONS)
    floor.put(setting, found)
    assert set(found.times) == {"floor"} and min(found.times["floor"]) > 0


@pytest.mark.parametrize("group", GROUPS)
def test_rewritten_path_is_the_packages(group):
    found, why = published.package()
    if found is None:
        pytest.skip(f"equiadapt: {why}")
    setting, state = TINY[group], weights(TINY[group])
    theirs = published.model(setting, state, CPU, artifact=True).eval()
    network = ConvNetwork(setting.small, 16, 7, setting.layers, setting.vector)
    network.load_state_dict(state[0])
    ours = published.Rewritten(network, setting, artifact=True).eval()
    ours.reference_vector.copy_(state[1][None])
    x = setting.images(torch.Generator().manual_seed(0), CPU)
    with torch.no_grad():
        torch.testing.assert_close(ours.canonicalize(x), theirs.canonicalize(x), atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.activations, theirs.activations, atol=1e-4, rtol=0)
        small = eager.crop_resize(x, setting)
        torch.testing.assert_close(ours.orbit(small), theirs.orbit(small), atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.losses()[0], theirs.losses()[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "case",
    [
        *(orbit.case(TINY[g], CPU) for g in GROUPS),
        *(act.case("act", TINY[g], tuple(range(TINY[g].order)), CPU) for g in GROUPS),
        *(estimator.case(n, TINY[g], CPU) for g in GROUPS for n in (estimator.BACKWARD, estimator.BOTH)),
        *(make(TINY["C8"], 4, 5, 2, CPU) for make in (orbit_conv2d.forward, orbit_conv2d.backward)),
        *(make(TINY["C4"], CPU) for make in (crop_resize.forward, crop_resize.backward)),
        orbit_scores.case(Setting("C8", batch=5, size=1, vector=16), CPU),
        *(
            orbit_logit_scores.case(Setting("C8", batch=5, size=1, vector=16, dtype=dtype), CPU, name)
            for dtype, name in (("float32", orbit_logit_scores.BOTH), ("bfloat16", orbit_logit_scores.FORWARD))
        ),
    ],
    ids=lambda case: f"{case.measure}-{case.setting.group}",
)
def test_ops_agree(case):
    found = run(case, OPTIONS)
    assert found.errors in ({}, {"compile": "left out by --quick"})
    assert {"eager", contenders.ours(CPU)} <= set(found.times)
    assert all(len(times) == OPTIONS.rounds for times in found.times.values())


@pytest.mark.parametrize("change", [lambda setting: setting, quick, tiny])
def test_all_contenders_crop_the_same_pixels(change):
    """Ours keeps one pixel more where a crop would else not share the centre of the image."""
    for setting in map(change, [*headline("cpu"), *headline("cuda"), *further(), *TINY.values()]):
        x = torch.rand(1, 1, setting.size, setting.size)
        start = round((setting.size - setting.crop) / 2)
        crop = x[:, :, start : start + setting.crop, start : start + setting.crop]
        assert torch.equal(CropResize(CROP)(x), crop)


def test_acts_agree():
    x, element = torch.rand(8, 2, 9, 9), torch.arange(8)
    first, *others = (way(x, element, "D4") for way in eager.ACTS)
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-5, rtol=0)
    torch.testing.assert_close(eager.act_by_element(others[0], element, "D4", inverse=False), x)


def test_resnet50_is_the_usual_one():
    assert sum(p.numel() for p in resnet50().parameters()) == 25_557_032


def test_quick_keeps_an_image():
    assert quick(Setting("C4", batch=1)).batch == 1
    assert quick(Setting("C4")).batch == 8


@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's account of the process")
def test_peak_memory_is_of_the_step():
    found = memory.peak("eager", Setting("C4", batch=4), CPU)
    assert 1 < found < 500


@pytest.fixture
def stored(timings) -> dict:
    conditions = results.conditions(CPU, 2, quick=False)
    setting = Setting("C4")
    rows, verdicts = (
        results.rows("canonicalize", setting, timings),
        results.verdicts("canonicalize", setting, timings, "cpu"),
    )
    return json.loads(json.dumps({"conditions": conditions, "rows": rows, "verdicts": verdicts}))


def test_report_tells_wins_and_losses(stored):
    page = report.page([stored])
    assert "| canonicalize | C4 64×3×224×224 | faster than equiadapt | ≥ 10× | 9.5× (9.25–9.75) | **no** |" in page
    assert "| canonicalize | C4 64×3×224×224 | share of floor | ≤ 2× (wish 1.3×) | 1.25× | yes |" in page
    assert "* target missed: canonicalize, C4 64×3×224×224, against compile: wanted ≥ 1.7×, got 1.6×" in page
    assert "| C4 64×3×224×224 | other | – | – | no such thing |" in page
    assert f"## {report.GPU}" in page
    assert "not yet measured" in page


def test_report_tells_who_is_faster_beyond_noise(stored):
    assert report.losses(stored).startswith("0 of 3 rows")
    for row in stored["rows"]:
        if row["contender"] == "eager":
            row["ratio"] = {"median": 0.5, "q1": 0.4, "q3": 0.6}
        if row["contender"] == "compile":
            row["ratio"] = {"median": 0.9, "q1": 0.7, "q3": 1.1}
    losses = report.losses(stored)
    assert losses.startswith("1 of 3 rows") and "In 1 more only the median" in losses
    assert losses.splitlines()[2:] == ["* eager: canonicalize, C4 64×3×224×224: it needs 0.5× (0.4–0.6) of our time"]
    assert losses in report.page([stored])


def test_what_is_no_rival_is_never_ahead():
    ratio = {"ratio": {"median": 0.1, "q1": 0.1, "q3": 0.1}}
    for contender in ("limit", "floor", "ours, op by op"):
        assert not results.is_rival({"contender": contender} | ratio)
    assert results.is_rival({"contender": "onnxruntime"} | ratio)
    assert not results.is_rival({"contender": "eager", "error": "none"})


def test_report_tells_what_was_cut_off(stored):
    assert "Cut off before the end: act, orbit." in report.conditions(stored | {"unfinished": ["act", "orbit"]})
    assert "Cut off" not in report.conditions(stored | {"unfinished": []})


def test_report_drops_the_empty_gpu_section_once_there_is_one(stored):
    gpu = {"conditions": stored["conditions"] | {"kind": "cuda", "device": "A GPU"}, "rows": [], "verdicts": []}
    assert "not yet measured" not in report.page([stored, gpu])


def test_report_goes_between_the_markers(tmp_path, stored):
    readme, docs = tmp_path / "README.md", tmp_path / "docs" / "benchmarks.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write([stored], docs, readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n") and text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text and "| canonicalize |" in text and "1 of 3 targets met" in text
    report.write([stored], docs, readme)
    assert readme.read_text() == text
    assert docs.read_text() == report.page([stored])


def test_report_leaves_a_readme_without_markers_alone():
    assert report.insert("nothing here", "block") == "nothing here"
    assert report.insert(f"{report.BEGIN} but no end", "block") == f"{report.BEGIN} but no end"


def test_conditions_name_no_place(stored):
    text = json.dumps(stored["conditions"])
    assert stored["conditions"]["threads"] == torch.get_num_threads()
    assert "/home" not in text and "/tmp" not in text and "/work" not in text


def test_command_refuses_unknown_measures(capsys):
    with pytest.raises(SystemExit):
        cli.arguments(["--only", "orbits"])
    assert "none of" in capsys.readouterr().err
    assert cli.arguments(["--only", "orbit,act"]).only == ("orbit", "act")


def test_command_writes_only_where_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(orbit_scores, "SETTING", Setting("C4", batch=16, size=1, layers=0, vector=8))
    assert cli.main(["--quick", "--only", "orbit_scores", "--rounds", "2", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert found["conditions"]["quick"] and found["rows"] and found["verdicts"]
    assert "orbit_scores and losses" in capsys.readouterr().out


def test_a_run_that_is_cut_off_keeps_what_it_has(tmp_path, monkeypatch, capsys):
    row = {"measure": "orbit", "setting": "C4", "contender": "eager", "error": "none"}

    def measured(options):
        yield [row], []
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "MEASURES", {"orbit": SimpleNamespace(measure=measured)})
    with pytest.raises(KeyboardInterrupt):
        cli.main(["--device", "cpu", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert path.suffix == cli.UNFINISHED and not report.load(tmp_path)
    assert json.loads(path.read_text())["rows"] == [row]
    assert "| C4 | eager | – | – | none |" in report.page([json.loads(path.read_text())])
    monkeypatch.setattr(cli, "MEASURES", {"orbit": SimpleNamespace(measure=lambda options: [([row], [])])})
    assert cli.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cpu.json"]


def test_what_is_tuned_while_it_is_measured_is_stored(tmp_path, monkeypatch):
    """A run on a GPU, from the measure to the file, with a GPU that isn't there."""
    from equifast import as_group
    from equifast.kernels import load
    from equifast.kernels.host import launch

    from .fake_gpu import FakeGpu

    def measured(options):
        table = list(as_group("C4").action_table(inverse=True))
        load("orbit")(torch.empty(2, 3, 64, 64), None, table, [], [], "border", False)
        return [([{"measure": "orbit", "setting": "all", "contender": "all", "error": "none"}], [])]

    monkeypatch.setenv("EQUIFAST_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(launch, "_may_tune", lambda device: True)
    monkeypatch.setattr(cli, "MEASURES", {"orbit": SimpleNamespace(measure=measured)})
    launch._tuned_before.cache_clear()
    with FakeGpu(duration=lambda call: call.grid[0]).installed() as gpu:
        assert cli.main(["--only", "orbit", "--device", "cpu", "--out", str(tmp_path)]) == 0
    (found,) = json.loads((tmp_path / "cpu.json").read_text())["configurations"].values()
    assert len(gpu.launches) > 3 and len(found) == 1
    ((tuning_key, config),) = found.items()
    assert "float32" in tuning_key and config == "BLOCK_I 32, BLOCK_J 32, BLOCK_C 1, 4 warps, 1 stages"


def test_command_outlives_a_failing_measure(monkeypatch):
    def fails(options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(orbit, "measure", fails)
    rows, verdicts = cli.measure(Options(CPU, 1, only=("orbit",)))
    assert rows == [{"measure": "orbit", "setting": "all", "contender": "all", "error": "RuntimeError: out of memory"}]
    assert verdicts == []


def test_the_second_pass_is_0_where_nothing_interpolates():
    setting = TINY["D4"]
    x = setting.images(torch.Generator().manual_seed(0), CPU)
    skipped, run_ = (training.pipeline(name, setting, CPU) for name in (contenders.ours(CPU), training.ALL_PASSES))
    assert (skipped.passes, run_.passes) == (1, 2)
    assert skipped.losses(x)[3] == 0
    assert run_.losses(x)[3] < 1e-9
    assert not training.names(TINY["C8"], CPU)[-1].startswith(training.ALL_PASSES)
