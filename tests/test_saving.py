"""Canonicalizers in folders: what comes back, what has to be given again, and what is refused by name."""

import json
import sys
import types

import pytest
import torch
from torch import nn

from equifast import scores
from equifast.nn import Canonicalizer, ConvNetwork, CropResize, TinyCanonicalizer

from .cases import assert_same, rand


def conv_network(**options):
    return ConvNetwork((3, 24, 24), **{"out_channels": 4, "kernel_size": 3, "num_layers": 2, **options})


#: Canonicalizers that are described whole.
WHOLE = {
    "network": lambda: Canonicalizer(conv_network(), "C4"),
    "wide": lambda: Canonicalizer(
        conv_network(num_layers=3, out_vector_size=9), "D8", learn_reference=False, gate=0.5, refine=2
    ),
    "options": lambda: Canonicalizer(
        conv_network(), "C8", beta=3.0, similarity="dot", estimator="none", padding_mode="zeros", crop=0.8, resize=24
    ),
    "square": lambda: Canonicalizer(conv_network(), "C2", crop="square", resize=(24, 24)),
    "narrow": lambda: Canonicalizer(conv_network(), "C4", network_dtype=torch.bfloat16),
    "score": lambda: Canonicalizer(conv_network(), "C4", score=scores.margin),
    "tiny": lambda: TinyCanonicalizer(3, "D4", channels=5, kernel_size=(3, 5), stride=(2, 1), bias=False, gate=0.1),
    "same": lambda: TinyCanonicalizer(3, "C3", padding="same", stride=1, activation="relu", padding_mode="zeros"),
}


def made(name):
    torch.manual_seed(0)
    return WHOLE[name]().eval()


@pytest.mark.parametrize("name", WHOLE)
def test_it_comes_back_as_it_was(name, tmp_path):
    module, x = made(name), rand(5, 3, 24, 24)
    module.save_pretrained(tmp_path / "new" / "folder")
    other = Canonicalizer.from_pretrained(tmp_path / "new" / "folder")
    assert not other.training
    assert list(other.state_dict()) == list(module.state_dict())
    assert isinstance(other.reference, nn.Parameter) == isinstance(module.reference, nn.Parameter)
    for attribute in ("group", "beta", "similarity", "estimator", "padding_mode", "network_dtype", "score", "gate"):
        assert getattr(other, attribute) == getattr(module, attribute)
    with torch.no_grad():
        expected, actual = module(x), other(x)
    assert_same(actual.image, expected.image)
    assert_same(actual.activations, expected.activations)


@pytest.mark.parametrize("name", WHOLE)
def test_people_can_read_the_description(name, tmp_path):
    module = made(name)
    module.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["group"] == module.group.name and config["torch"] == torch.__version__
    assert config["network"]["type"] == type(module.network).__name__
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def other_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_what_is_not_described_has_to_be_given(tmp_path):
    torch.manual_seed(0)
    module, x = Canonicalizer(other_network(), "C4", vector_size=4).eval(), rand(5, 3, 24, 24)
    module.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="network: needed, since that of the canonicalizer in .* is none of equifast's"
    ):
        Canonicalizer.from_pretrained(tmp_path)
    other = Canonicalizer.from_pretrained(tmp_path, network=other_network())
    assert_same(other(x).activations, module(x).activations)
    with pytest.raises(ValueError, match="score: expected None, since the canonicalizer in .* has none"):
        Canonicalizer.from_pretrained(tmp_path, network=other_network(), score=scores.margin)


def test_functions_of_ones_own_have_to_be_given(tmp_path):
    def preprocess(x):
        return x[:, :, ::2, ::2]

    def score(vectors):
        return vectors.sum(1)

    module = Canonicalizer(conv_network(), "C2", preprocess=preprocess, score=score)
    module.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["preprocess"], config["score"]) == ("given", "given")
    for given in ({"preprocess": preprocess}, {"score": score}):
        with pytest.raises(ValueError, match="needed, since that of"):
            Canonicalizer.from_pretrained(tmp_path, **given)
    other = Canonicalizer.from_pretrained(tmp_path, preprocess=preprocess, score=score)
    assert (other.preprocess, other.score) == (preprocess, score)


def test_a_network_that_was_edited_is_not_described(tmp_path):
    """What its class makes of the same arguments would have other weights."""
    network = conv_network()
    network.final_fc = nn.Sequential(nn.Linear(network.final_fc[0].num_features, 8))
    Canonicalizer(network, "C4", vector_size=8).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["network"] == "given"

    class Mine(CropResize):
        pass

    Canonicalizer(conv_network(), "C4", preprocess=Mine(0.5)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["preprocess"] == "given"


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    made("network").save_pretrained(tmp_path)
    with pytest.raises(ValueError) as error:
        Canonicalizer.from_pretrained(tmp_path, network=conv_network(out_channels=5))
    assert "network.enc_network.0.weight: expected (5, 3, 3, 3), got (4, 3, 3, 3)" in str(error.value)
    with pytest.raises(ValueError) as error:
        Canonicalizer.from_pretrained(tmp_path, network=other_network())
    assert "network.0.weight: missing in" in str(error.value)
    assert "network.enc_network.0.weight: not part of the module" in str(error.value)
    config = json.loads((tmp_path / "config.json").read_text())
    for found in (9, None):
        (tmp_path / "config.json").write_text(json.dumps(config | {"format": found}))
        with pytest.raises(ValueError, match=f"expected format 1, got {found}"):
            Canonicalizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"score": "torch"}, "score: expected a function of equifast.scores in .*, got 'torch'"),
        ({"score": "_checked"}, "score: expected a function of equifast.scores in .*, got '_checked'"),
        ({"network": {"type": "Other"}}, "network: expected one of ConvNetwork, .* in .*, got 'Other'"),
        ({"network_dtype": "float64"}, "network_dtype: expected one of"),
        ({"group": "E4"}, "group: expected"),
    ],
    ids=str,
)
def test_a_description_that_was_changed_is_refused(change, match, tmp_path):
    made("score").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=match):
        Canonicalizer.from_pretrained(tmp_path)
    del config["beta"], config["gate"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="lacks beta, gate"):
        Canonicalizer.from_pretrained(tmp_path)


def test_a_reference_without_a_size_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="reference: not initialized"):
        Canonicalizer(other_network(), "C4").save_pretrained(tmp_path)


def test_tensors_with_two_names_are_saved_once(tmp_path):
    def tied():
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12))
        network[3].weight = network[1].weight
        return network

    module = Canonicalizer(tied(), "C4", vector_size=12)
    module.save_pretrained(tmp_path)
    other = Canonicalizer.from_pretrained(tmp_path, network=tied())
    x = rand(2, 3, 2, 2)
    assert_same(other(x).activations, module(x).activations)


def test_other_names_are_those_of_the_hub(tmp_path, monkeypatch):
    """The two files alone are asked for; nothing is downloaded here."""
    module = made("tiny")
    module.save_pretrained(tmp_path)
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options))
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    other = Canonicalizer.from_pretrained("someone/tiny", revision="v1")
    assert_same(other.reference, module.reference)
    assert asked == [
        ("someone/tiny", {"revision": "v1", "allow_patterns": ["config.json", "model.safetensors"]}),
    ]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="someone/tiny: found no such folder; for the Hub, pip install"):
        Canonicalizer.from_pretrained("someone/tiny")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        module.save_pretrained(tmp_path)
