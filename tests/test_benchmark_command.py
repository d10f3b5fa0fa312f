"""The command `python -m benchmarks`."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as cli
from benchmarks.harness import engines, report, results
from benchmarks.harness.measure import (
    EXPORTED,
    Options,
)
from benchmarks.harness.settings import Setting
from benchmarks.ops import orbit, orbit_scores

from .trials import CPU


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
