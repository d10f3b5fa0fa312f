"""`equifast diagnose` over folders: the page says what `diagnose` measures, of the images that the folders have."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import equifast
from equifast import command

from . import networks

pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

from equifast.datasets import pictures  # noqa: E402
from equifast.datasets.chooser import load  # noqa: E402

from .test_command import noise, write  # noqa: E402


def run(source, out, *options, network="tests.datasets.networks:classifier"):
    arguments = ["diagnose", str(source), "--out", str(out), "--network", network, "--size", "16", "--rounds", "0"]
    assert command.main([*arguments, *options]) == 0
    return json.loads((out / "report.json").read_text())


def views(files):
    return torch.stack([pictures.view(raw, 16) for raw in files.values()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images in folders with the numbers of classes, and two files that are none."""
    files = {f"some/{i % 7}/{name}": raw for i, (name, raw) in enumerate(noise(15).items())}
    files = dict(sorted(files.items()))
    path = tmp_path_factory.mktemp("in")
    write(path, files | {"some/3/broken.png": b"no image", "notes.txt": b"not an image by its name"})
    return path, files


def test_the_report_is_that_of_the_function(folder, tmp_path, capsys):
    path, files = folder
    labels = torch.tensor([int(Path(name).parent.name) for name in files])
    found = run(path, tmp_path / "a/report", "--labels", "--group", "D4", "--batch-size", "4")
    expected = equifast.diagnose(networks.classifier().eval(), views(files), labels, "D4", batch_size=4, rounds=0)
    for name, value in json.loads(json.dumps(expected.to_dict())).items():
        if name != "notes":
            assert found[name] == value, name
    assert found["notes"] == ["Left out, since it can't be read: some/3/broken.png (ValueError: expected an image of a "
                              "format that Pillow knows)."]  # fmt: skip
    assert found["worst_files"] == [list(files)[i] for i in expected.worst.index.tolist()]
    page = (tmp_path / "a/report/report.md").read_text()
    assert page.startswith("# tests.datasets.networks:classifier under D4\n\nD4, 15 images.\n")
    assert "](report.png)" in page and f"`{found['worst_files'][0]}`" in page
    assert (tmp_path / "a/report/report.png").stat().st_size > 10_000
    assert str(expected) in capsys.readouterr().out.replace("\n\n" + found["notes"][0], "")


def test_a_canonicalizer_has_its_own_group(folder, tmp_path):
    path, files = folder
    module = networks.canonicalizer().eval()
    module.save_pretrained(tmp_path / "saved")
    found = run(path, tmp_path / "out", "--canonicalizer", "tests.datasets.networks:canonicalizer")
    expected = equifast.diagnose(networks.classifier().eval(), views(files), group="D4", canonicalizer=module, rounds=0)
    assert found["group"] == "D4" and found["choices"] == json.loads(json.dumps(expected.to_dict()))["choices"]
    assert found["before"]["accuracy"] is None
    with pytest.raises(SystemExit):  # its network is none of equifast's own, so the folder alone doesn't have it
        run(path, tmp_path / "out", "--canonicalizer", str(tmp_path / "saved"))
    equifast.nn.TinyCanonicalizer(3, "C2", channels=4).eval().save_pretrained(tmp_path / "tiny")
    assert run(path, tmp_path / "out", "--canonicalizer", str(tmp_path / "tiny"))["group"] == "C2"


def test_classes_by_name(tmp_path, capsys):
    files = {f"{['cat', 'dog'][i % 2]}/{name}": raw for i, (name, raw) in enumerate(noise(6).items())}
    write(tmp_path / "in", files)
    names = tmp_path / "names.txt"
    names.write_text("ape\nbee\ncat\ndog\neel\nfox\ngnu\n")
    found = run(tmp_path / "in", tmp_path / "out", "--labels", "--classes", str(names), "--group", "C2")
    labels = torch.tensor([2 if name.startswith("cat") else 3 for name in sorted(files)])
    expected = equifast.diagnose(
        networks.classifier().eval(), views(dict(sorted(files.items()))), labels, "C2", rounds=0
    )
    assert found["before"]["accuracy"]["mean"] == expected.before.accuracy.mean.tolist()
    assert found["classes"] == names.read_text().split()
    few = run(tmp_path / "in", tmp_path / "out", "--limit", "4")
    assert few["count"] == 4 == run(tmp_path / "in", tmp_path / "out", "--limit", "4")["count"]

    def refused(*options, **more):
        with pytest.raises(SystemExit) as caught:
            run(tmp_path / "in", tmp_path / "none", *options, **more)
        assert caught.value.code == 2 and not (tmp_path / "none").exists()
        return capsys.readouterr().err

    assert "classes: expected 7 names, one for each output, got 2" in refused("--labels")
    names.write_text("ape\nbee\ncat\neel\nfox\ngnu\nhen\n")
    assert "--classes: expected all folders in" in (said := refused("--labels", "--classes", str(names)))
    assert "lacks dog" in said
    assert "--classes: expected a text file" in refused("--labels", "--classes", str(tmp_path / "nothing"))
    assert "--limit: expected at least 1, got 0" in refused("--limit", "0")
    other = ["--canonicalizer", "tests.datasets.networks:canonicalizer"]
    assert "canonicalizer: expected one for C4, got one for D4" in refused("--group", "C4", *other)
    assert "--canonicalizer: module" in refused("--canonicalizer", "tests.datasets.networks:nothing")
    write(tmp_path / "in", {"root.png": next(iter(files.values()))})
    assert "--labels: expected every image in a folder of its class" in refused("--labels")


def test_a_model_of_torchvision_is_a_network(monkeypatch):
    asked = []

    def get_model(name, weights):
        asked.append((name, weights))
        return torch.nn.Flatten()

    models = types.SimpleNamespace(list_models=lambda: ["resnet18"], get_model=get_model)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    assert not load("resnet18").training and asked == [("resnet18", "DEFAULT")]
    with pytest.raises(
        ValueError, match="--network: expected module:attribute, a file .* of torchvision, got resnet1$"
    ):
        load("resnet1")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ValueError, match="--model: .* got resnet18, and torchvision can't be imported"):
        load("resnet18", "--model")


def test_python_runs_it_as_a_module():
    """Nothing is imported twice, of which Python would warn."""
    words = [sys.executable, "-W", "error::RuntimeWarning", "-m", "equifast.diagnose", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(equifast.__file__).parents[1])
    assert done.stdout.startswith("usage: python -m equifast.diagnose") and done.stderr == ""
