"""The example of a diagnosis: what it keeps, what it publishes, and that the page says what was kept."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import equifast

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the source tree")


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the examples by name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def test_what_is_kept_and_published(example, tmp_path):
    pytest.importorskip("matplotlib")
    module = example("diagnose")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(75, 4)).eval()
    x, right = torch.rand(9, 3, 5, 5), torch.eye(4)[torch.arange(9) % 4].bool()
    found = equifast.diagnose(model, x, right, rounds=0)
    results = module.kept(found, 1)
    assert json.loads(json.dumps(results)) == results and "worst" not in results
    assert [run["turn"] for run in results["runs"]] == ["0°", "90°", "180°", "270°"]
    for e, run in enumerate(results["runs"]):
        assert run["before"]["accuracy"] == pytest.approx(found.before.accuracy.mean[e].item(), abs=1e-4)
        assert run["after"]["distance"] == pytest.approx(found.after.distance.mean[e].item(), abs=1e-4)
    published = module.without_images(found)
    assert len(published.worst.images) == 0 and len(found.worst.images) == 3
    assert str(published) == str(found)
    published.plot(tmp_path / "published.png")
    assert (tmp_path / "published.png").stat().st_size > 10_000


def test_the_page_says_what_was_kept(example):
    module, published = example("diagnose"), example("published")
    page, results = module.PAGE.read_text(), published.load("diagnose")
    alone, canonicalized = page.split("### Behind the canonicalizer")
    for text, when in ((alone.split("### The model alone")[1], "before"), (canonicalized, "after")):
        for run in results["runs"]:
            (row,) = (line for line in text.split("\n\n###")[0].splitlines() if line.startswith(f"| {run['turn']} "))
            columns = "accuracy", "consistency", "confidence", "distance", "feature_distance"
            shown = [float(cell.split()[0]) for cell in row.strip("| ").split("|")[1:]]
            assert shown == pytest.approx([100 * run[when][name] for name in columns], abs=0.06)
    assert f"C4, {results['count']} images." in page and "](diagnose.png)" in page and module.DOCUMENTED.exists()
