"""All contenders of a benchmark compute the same."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks.harness import contenders, eager, engines, floor, gradients, published
from benchmarks.harness.measure import (
    EXPORTED,
    OPENVINO,
    Case,
    run,
)
from benchmarks.harness.network import ConvNetwork, resnet50
from benchmarks.harness.settings import CROP, GROUPS, Setting, further, headline, quick, tiny, weights
from benchmarks.harness.timings import Timings
from benchmarks.ops import act, crop_resize, estimator, orbit, orbit_conv2d, orbit_logit_scores, orbit_scores
from benchmarks.pipeline import canonicalize, memory, training, vectors
from equifast.nn import CropResize

from .trials import CPU, OPTIONS, TINY


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


def test_the_second_pass_is_0_where_nothing_interpolates():
    setting = TINY["D4"]
    x = setting.images(torch.Generator().manual_seed(0), CPU)
    skipped, run_ = (training.pipeline(name, setting, CPU) for name in (contenders.ours(CPU), training.ALL_PASSES))
    assert (skipped.passes, run_.passes) == (1, 2)
    assert skipped.losses(x)[3] == 0
    assert run_.losses(x)[3] < 1e-9
    assert not training.names(TINY["C8"], CPU)[-1].startswith(training.ALL_PASSES)
