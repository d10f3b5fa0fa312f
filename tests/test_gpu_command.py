"""`make gpu` without a GPU: what its steps are, what it skips and resumes, and that it ends what takes too long."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

gpu = pytest.importorskip("benchmarks.gpu.__main__", reason="needs the source tree")
plan = pytest.importorskip("benchmarks.gpu.plan", reason="needs the source tree")

ROOT = Path(__file__).resolve().parents[1]
STEPS = {step.name: step for step in gpu.steps()}
COUNT = "import pathlib; p = pathlib.Path({}); p.write_text(p.read_text() + 'x' if p.exists() else 'x'); print('done')"


def step(code, **options):
    command = (sys.executable, "-c", code)
    return gpu.Step("step", command, **({"dry": command} | options))


@pytest.fixture
def only(monkeypatch, tmp_path):
    """Runs ``make gpu`` as if it had these steps, and a GPU; returns the status."""
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(gpu, "has_gpu", lambda: True)
    monkeypatch.setattr(gpu, "commit", lambda: "abc")

    def run(*steps, arguments=()):
        monkeypatch.setattr(gpu, "steps", lambda: iter(steps))
        return gpu.main(list(arguments))

    return run


def record(folder):
    return json.loads((folder / "step.json").read_text())


def test_every_file_of_tests_has_a_step_for_each_backend():
    files = {path.name for path in (ROOT / "tests/gpu").glob("test_*.py")}
    assert {file for file, _ in plan.TESTS.values()} == files
    named = {b: {w for s in STEPS.values() if s.name.startswith(f"tests-{b}-") for w in s.command} for b in plan.BOTH}
    assert {f"tests/gpu/{file}" for file in files} <= named["triton"]
    assert {f"tests/gpu/{file}" for file in files - {"test_configurations.py"}} <= named["cuda"]


def test_steps_have_names_of_their_own_and_a_form_without_a_gpu():
    assert len(STEPS) == len(list(gpu.steps()))
    for found in STEPS.values():
        assert found.dry and found.command[0] in (gpu.PYTHON, found.tool)
        for words in (found.command, found.dry if isinstance(found.dry, tuple) else ()):
            assert all(isinstance(word, str) for word in words)


def test_the_first_ten_minutes_give_the_most_valuable_facts():
    first = ["build", "slice-triton", "slice-cuda", "slice-memcheck", "headline"]
    assert list(STEPS)[:5] == first and sum(STEPS[name].minutes for name in first) <= 10
    assert all(0 < found.minutes <= found.limit for found in STEPS.values())
    assert {name for name in STEPS["headline"].command if "," in name} == {"canonicalize,orbit_conv2d,training"}


@pytest.mark.parametrize("backend", plan.BOTH)
def test_the_first_tests_are_of_every_op_in_two_dtypes_and_of_all_laws(backend):
    """They are named here, so that a test with a new name doesn't fall out of the slice."""
    found = STEPS[f"slice-{backend}"]
    environment = os.environ | found.dry_environment
    done = subprocess.run(
        [*found.dry, "-p", "no:cacheprovider"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = re.findall(r"::test_(\w+)\[([^\]]*)\]", done.stdout)
    assert sorted(names) == [
        ("every_op_is_its_eager_definition", "torch.bfloat16-2-channels_last"),
        ("every_op_is_its_eager_definition", "torch.float32-3-contiguous"),
        *(("laws_bit_for_bit", group) for group in ("C4", "C8", "D4")),
    ]


def test_sanitizers_see_every_dtype_and_what_came_first():
    checked = [words[words.index("-k") + 1] for s in STEPS.values() if "memcheck" in s.name for words in [s.command]]
    assert checked[0] == plan.SLICE and checked[1:] == [
        f"eager_definition and {dtype}" for dtype in ("float64", "float32", "float16", "bfloat16")
    ]


def test_the_list_has_the_order_and_the_minutes(only, capsys):
    assert only(step("", minutes=2.0, limit=3.0), step("", minutes=0.5), arguments=["--list"]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["2.0", "2.0", "3.0", "step"] and second.split() == ["2.5", "0.5", "8.0", "step"]


def test_backends_are_timed_on_every_op_that_csrc_cuda_has():
    from benchmarks.gpu.backends import OPS

    text = "".join(file.read_text() for file in (ROOT / "csrc/cuda/ops").glob("*.cpp"))
    assert set(OPS) == set(re.findall(r'\{"(\w+)", TORCH_BOX', text))
    assert {f"backends-{op}" for op in OPS} <= set(STEPS)


def test_a_step_that_passed_is_not_run_again(only, tmp_path, monkeypatch, capsys):
    counted = step(COUNT.format(repr(str(tmp_path / "count"))))
    assert only(counted) == only(counted) == 0
    assert (tmp_path / "count").read_text() == "x" and "step: passed before" in capsys.readouterr().out
    assert record(tmp_path)["commit"] == "abc" and record(tmp_path)["passed"]
    assert only(counted, arguments=["--again"]) == 0
    assert (tmp_path / "count").read_text() == "xx"
    monkeypatch.setattr(gpu, "commit", lambda: "def")
    assert only(counted) == 0
    assert (tmp_path / "count").read_text() == "xxx"


def test_a_step_that_failed_is_run_again(only, tmp_path, capsys):
    assert only(step("raise SystemExit('no luck')")) == 1
    assert "step: failed" in (said := capsys.readouterr().out) and "no luck" in said
    assert not record(tmp_path)["passed"] and "no luck" in (tmp_path / "step.log").read_text()
    assert only(step("print('luck')")) == 0
    assert record(tmp_path)["passed"]


def test_a_step_without_its_tool_or_backend_is_skipped_with_the_reason(only, tmp_path, monkeypatch, capsys):
    assert only(step("", tool="no-such-tool")) == 0
    assert record(tmp_path)["skipped"] == "no no-such-tool here"
    monkeypatch.setattr(gpu, "available", lambda: {"cuda": "not built", "triton": None})
    assert only(step("", backends=("triton", "cuda"))) == 0
    assert record(tmp_path)["skipped"] == "cuda: not built"
    assert "step: skipped: cuda: not built" in capsys.readouterr().out


def test_a_dry_run_is_no_run(only, tmp_path, capsys):
    assert only(step("raise SystemExit(1)", dry="it takes a GPU", backends=("cuda",)), arguments=["--dry-run"]) == 0
    assert "skipped: it takes a GPU" in capsys.readouterr().out
    assert record(tmp_path / "dry")["dry"] and not (tmp_path / "step.json").exists()


def test_a_step_that_takes_too_long_is_ended_with_all_it_started(tmp_path):
    late = tmp_path / "late"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {wait(late)!r}])"
    found = gpu.run(step(code, limit=0.5 / 60), tmp_path, False)
    assert found["status"] == 124 and not found["passed"]
    assert "out of time" in gpu.told(found, tmp_path)
    time.sleep(1.5)
    assert not late.exists()


def wait(path):
    return f"import pathlib, time; time.sleep(1.5); pathlib.Path({str(path)!r}).touch()"


def test_names_choose_steps_or_groups_of_them():
    steps = list(STEPS.values())
    assert [s.name for s in gpu.selected("racecheck", steps)] == ["racecheck"]
    assert {s.name for s in gpu.selected("tests-cuda", steps)} == {n for n in STEPS if n.startswith("tests-cuda-")}
    with pytest.raises(ValueError, match="--only: 'tests-opencl' is none of build, "):
        gpu.selected("tests-opencl", steps)


def test_without_a_gpu_nothing_is_run(only, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "has_gpu", lambda: False)
    assert only(step("")) == 1
    assert "No GPU here" in capsys.readouterr().out


def test_parts_of_the_benchmarks_become_one_run(tmp_path):
    for i, name in enumerate(("act", "orbit")):
        (tmp_path / "benchmarks" / name).mkdir(parents=True)
        part = {
            "conditions": {"device": "GPU"},
            "rows": [{"measure": name}],
            "verdicts": [i],
            "states": [{"at": str(9 - i), "when": name}],
            "configurations": {"orbit": {name: "a tile"}},
        }
        (tmp_path / "benchmarks" / name / "gpu.json").write_text(json.dumps(part))
    gpu.merge(tmp_path)
    whole = json.loads((tmp_path / "benchmarks.json").read_text())
    assert whole["rows"] == [{"measure": "act"}, {"measure": "orbit"}] and whole["verdicts"] == [0, 1]
    assert whole["configurations"] == {"orbit": {"act": "a tile", "orbit": "a tile"}}
    assert whole["conditions"] == {"device": "GPU"}
    assert [state["when"] for state in whole["states"]] == ["orbit", "act"]


def test_of_a_measure_that_was_cut_off_its_rows_are_kept(tmp_path):
    """A run that ends removes what it had stored before, so that is newer where it is there."""
    for name, suffix, row in (("act", ".unfinished", "some"), ("act", ".json", "before"), ("orbit", ".json", "all")):
        file = tmp_path / "benchmarks" / name / f"gpu{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"conditions": {}, "rows": [row], "verdicts": []}))
    gpu.merge(tmp_path)
    whole = json.loads((tmp_path / "benchmarks.json").read_text())
    assert whole["rows"] == ["some", "all"] and whole["unfinished"] == ["act"]


def test_an_environment_of_ones_own_does_not_choose_the_backend(monkeypatch):
    monkeypatch.setenv("EQUIFAST_BACKEND", "reference")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not {"EQUIFAST_BACKEND", "TRITON_INTERPRET"} & set(gpu.environment({}))
    assert gpu.environment({"EQUIFAST_BACKEND": "cuda"})["EQUIFAST_BACKEND"] == "cuda"


@pytest.mark.parametrize("backend", plan.BOTH)
def test_the_tests_of_a_gpu_are_collected_with_its_backend_named(backend):
    """A backend that serves no CPU tensors is no error before a test asks for a GPU."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"EQUIFAST_BACKEND": backend}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
