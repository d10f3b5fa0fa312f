import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import equifast
from equifast import info
from equifast.backends import helper, native, selection

SECTIONS = {"versions", "copy", "build", "cpu", "cuda", "backends", "selection", "tuned", "environment"}


def run_info(path, *arguments, **variables):
    """`python -m equifast.info` in a fresh interpreter that looks in `path` first."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("EQUIFAST_")} | variables
    command = [sys.executable, "-m", "equifast.info", *arguments]
    path = os.pathsep.join(map(str, path))
    result = subprocess.run(command, env=env | {"PYTHONPATH": path}, cwd="/", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def copied(folder):
    """The folder, with a copy of the package as it is here."""
    source = Path(equifast.__file__).parent
    shutil.copytree(source, folder / "equifast", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def copy(tmp_path):
    """A copy to be broken."""
    return copied(tmp_path)


TUNED = {"GPU, Triton 3.6.0": {"orbit_conv2d float32": "N 64, K 32, 4 warps, 2 stages"}}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A copy, and an environment in which there is something to be reported."""
    folder = copied(tmp_path_factory.mktemp("settings"))
    (folder / "tuned.json").write_text(json.dumps(TUNED))
    names = {"EQUIFAST_BACKEND": "reference", "EQUIFAST_CPU_CAPABILITY": "baseline", "EQUIFAST_CACHE_DIR": str(folder)}
    return folder, names


@pytest.fixture(scope="module")
def found(settings):
    """What is reported there."""
    folder, names = settings
    return json.loads(run_info([folder], "--json", **names))


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """What is reported of an environment with nothing but mistakes."""
    folder = copied(tmp_path_factory.mktemp("wrong"))
    (folder / "tuned.json").write_text("[half a file")
    names = {"EQUIFAST_BACKEND": "gpu", "EQUIFAST_CPU_CAPABILITY": "sse9", "EQUIFAST_CACHE_DIR": str(folder)}
    return json.loads(run_info([folder], "--json", **names))


def test_text_names_every_section(settings):
    folder, names = settings
    text = run_info([folder], **names)
    named = {line.partition(":")[0] for line in text.splitlines() if line[0] != " "}
    assert named == SECTIONS
    assert "reference:         usable" in text
    assert "orbit_conv2d float32: N 64, K 32, 4 warps" in text


def test_json_describes_this_process(found):
    assert set(found) == SECTIONS
    assert found["versions"]["equifast"] == equifast.__version__
    assert found["build"] == info.build()
    assert found["backends"]["chosen"] == {"cpu": "reference", "cuda": "reference"}
    assert found["environment"]["EQUIFAST_BACKEND"] == "reference"


def test_a_hidden_copy_is_named(copy, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "equifast").mkdir()
    (other / "equifast/__init__.py").touch()
    found = json.loads(run_info([copy, other], "--json"))["copy"]
    assert found["imported"] == f"{copy / 'equifast'} (installed)" and found["hidden"][0] == f"{other / 'equifast'}"
    assert found["warning"].startswith(f"{other / 'equifast'} is here too, and not what this report is about")
    (copy / "setup.py").touch()
    assert "or run `pip install -e .` in the source tree" in run_info([copy, other])


@pytest.mark.parametrize("editable", [True, False])
def test_an_editable_install_that_is_hidden_is_named(copy, tmp_path, monkeypatch, editable):
    (tmp_path / "source tree/equifast").mkdir(parents=True)
    (tmp_path / "source tree/equifast/__init__.py").touch()
    installed = tmp_path / "site/equifast-0.1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: equifast\nVersion: 0.1.0\n")
    origin = {"url": (tmp_path / "source tree").as_uri(), "dir_info": {"editable": editable}}
    (installed / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    assert info.copy()["hidden"] == ([str(tmp_path / "source tree/equifast")] if editable else [])


def test_a_copy_that_hides_none_gives_no_warning(copy, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(equifast.__file__).parents[1]), str(copy / "equifast"), "/nonexistent"])
    found = info.copy()
    assert found["hidden"] == [] and "warning" not in found


def test_a_source_tree_that_was_never_built_says_how_to_build_it(copy):
    for path in [*(copy / "equifast").glob("*.so"), copy / "equifast/_build.json"]:
        path.unlink()
    found = json.loads(run_info([copy], "--json"))
    reason = "this source tree was never built (`pip install -e .` builds it)"
    assert found["build"] == {"native": False, "reason": reason} and reason in found["backends"]["cpu"]


@pytest.mark.parametrize("error", ["ModuleNotFoundError", "OSError", "RuntimeError"])
def test_a_broken_torch_is_reported(copy, error):
    (copy / "torch").mkdir()
    (copy / "torch/__init__.py").write_text(f"raise {error}('broken on purpose')\n")
    found = json.loads(run_info([copy], "--json"))
    assert set(found) == SECTIONS
    assert found["versions"]["torch"] == f"error: {error}: broken on purpose"
    assert "broken on purpose" in found["cpu"]["threads"]
    assert "broken on purpose" in found["cuda"]
    assert found["build"] == info.build()
    assert "broken on purpose" in run_info([copy])


def test_broken_libraries_are_reported(copy):
    for library in ("_cpu.so", "_cuda.so", "_helper.so"):
        (copy / "equifast" / library).write_bytes(b"not a shared library")
    found = json.loads(run_info([copy], "--json"))
    backends = found["backends"]
    assert "_cpu.so" in backends["cpu"] and "can't be loaded" in backends["cpu"]
    assert re.match(r"_cuda\.so .* can't be loaded|torch .* was built without CUDA", backends["cuda"])
    assert backends["chosen"]["cpu"] == "reference" and backends["chosen"]["cuda"] != "cuda"
    assert found["cpu"]["helper"].startswith("error: OSError: ") and "_helper.so" in found["cpu"]["helper"]


@pytest.mark.skipif(not native.build_info().get("native"), reason="this is a pure-Python build")
@pytest.mark.parametrize("size", [None, 4000])
def test_a_helper_that_is_missing_or_cut_short_is_reported(copy, size):
    library = copy / "equifast/_helper.so"
    whole = library.read_bytes()
    library.unlink()
    if size:
        library.write_bytes(whole[:size])
    found = json.loads(run_info([copy], "--json"))
    reason = "_helper.so: its file has 4000 bytes" if size else "_helper.so was not built: "
    assert found["cpu"]["helper"].startswith(f"error: OSError: {reason}")
    assert found["backends"]["cpu"] == "usable"


def test_selection_is_explained(found):
    assert found["selection"]["between"] == "nothing to select: CUDA tensors run on reference"
    assert set(found["selection"]) == {"between", "rule"} and found["selection"]["rule"] == selection.RULE


def test_a_wrong_backend_name_is_reported(wrong):
    assert "expected one of auto, cuda, triton, cpu, reference, got 'gpu'" in wrong["backends"]["chosen"]["cpu"]


def test_tuned_configurations_are_listed(found, wrong):
    assert found["tuned"] == TUNED and wrong["tuned"] == {}


@pytest.mark.skipif(not native.build_info().get("native"), reason="this is a pure-Python build")
def test_cpu_capability_can_be_forced(found, wrong):
    assert helper.isas_built()[0] == "baseline"
    assert set(helper.supported_isas()) <= set(helper.isas_built())
    assert (found["cpu"]["isa"], found["cpu"]["vector_bits"]) == ("baseline", 128)
    assert (
        "EQUIFAST_CPU_CAPABILITY: expected one of baseline" in wrong["cpu"]["isa"]
        and "got 'sse9'" in wrong["cpu"]["isa"]
    )
