"""`examples/ddp.py` is killed in the middle of an epoch, and goes on to the weights of a run that wasn't."""

import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from .processes import PATIENCE, ProcessGroup

ROOT = Path(__file__).resolve().parents[2]
IMAGES, EPOCHS, BATCH, EVERY = 320, 5, 64, 3

pytestmark = pytest.mark.skipif(not (ROOT / "examples").exists(), reason="needs the source tree")


def train(path, epochs=EPOCHS):
    """Train on noise in one of several processes; the weights, or what was refused."""
    sys.path.insert(0, str(ROOT / "examples"))
    ddp = importlib.import_module("ddp")
    try:
        return ddp.train(ddp.noise(IMAGES), Path(path), epochs, batch=BATCH, every=EVERY).state_dict()
    except RuntimeError as error:
        return str(error)


def read(path):
    return torch.load(path, weights_only=True)


def test_weights_after_a_kill_are_those_of_a_run_without_one(pair, tmp_path):
    whole, killed = tmp_path / "whole.pt", tmp_path / "new" / "killed.pt"
    expected = pair.run(train, str(whole))
    victims = ProcessGroup(2)
    victims.start(train, str(killed))
    end = time.monotonic() + PATIENCE
    while not killed.exists() and time.monotonic() < end:
        time.sleep(0.002)
    victims.close()
    steps = IMAGES // BATCH
    assert 0 < read(killed)["step"] < EPOCHS * steps and read(killed)["step"] % steps
    for resumed, unbroken in zip(pair.run(train, str(killed)), expected, strict=True):
        assert resumed.keys() == unbroken.keys()
        assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())
    assert read(killed)["step"] == read(whole)["step"] == EPOCHS * steps
    assert all(torch.equal(read(killed)["module"][name], value) for name, value in expected[0].items())
    for refusal in pair.run(train, str(whole), EPOCHS + 1):
        assert f"expected a checkpoint of {[EPOCHS + 1, IMAGES, BATCH]}" in refusal


def test_torchrun_starts_it(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["examples/ddp.py", "--noise", f"--checkpoint={tmp_path / 'ddp.pt'}", "--epochs=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and "2 processes" in done.stdout, done.stderr
    assert read(tmp_path / "ddp.pt")["step"] == 4
