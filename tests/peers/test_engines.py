"""The inference engines that this package is timed against compute what eager PyTorch does, from one exported graph."""

import importlib

import pytest
import torch

from benchmarks.harness import eager, engines
from benchmarks.harness.measure import EXPORTED, OPENVINO
from benchmarks.harness.settings import Setting
from benchmarks.pipeline import canonicalize, vectors

from . import missing

CPU = torch.device("cpu")

#: All kinds of members are in these: quarter turns, rotations that interpolate, reflections.
SETTINGS = [Setting(group, batch=2, size=24, resize=24, layers=2, vector=16) for group in ("C8", "D4")]


def build(case, name):
    """The call of one contender of a case, or the end of the test where its package isn't there."""
    if name in EXPORTED:
        for package in ("onnx", "onnxscript", name):
            try:
                importlib.import_module(package)
            except ImportError as error:
                missing(error)
    return next(c for c in case.contenders if c.name == name).build()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.group)
@pytest.mark.parametrize("name", EXPORTED)
def test_vectors(name, setting):
    case = vectors.case(setting, CPU)
    inputs = case.inputs(torch.Generator().manual_seed(0))
    got, expected = (build(case, each)(*inputs)() for each in (name, "eager"))
    assert case.compare(got, expected, name) is None
    assert "differs" in case.compare(got.roll(2, 0), expected, name)


def test_vectors_inside_in_bfloat16():
    case = vectors.case(Setting("C8", batch=2, size=24, resize=24, layers=2, vector=16, label=vectors.NARROW), CPU)
    inputs = case.inputs(torch.Generator().manual_seed(0))
    got, expected = (build(case, each)(*inputs)() for each in (OPENVINO, "eager"))
    assert case.compare(got, expected, OPENVINO) is None


@pytest.mark.parametrize("name", EXPORTED)
def test_the_whole_of_canonicalize(name, monkeypatch):
    monkeypatch.setattr(eager, "quickest_act", lambda *arguments: eager.act_by_element)
    case = canonicalize.case(Setting("C8", batch=2, size=32, resize=24, layers=2, vector=16), CPU)
    inputs = case.inputs(torch.Generator().manual_seed(0))
    got, expected = (build(case, each)(*inputs)() for each in (name, "eager"))
    assert case.compare(got, expected, name) is None


def test_one_graph_serves_every_setting_with_the_same_small_images():
    build(vectors.case(SETTINGS[0], CPU), EXPORTED[0])
    other = Setting("C8", batch=2, size=40, resize=24, layers=2, vector=16, label="SAM")
    assert engines.exported(other) is engines.exported(SETTINGS[0])
