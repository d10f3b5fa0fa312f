"""What the report says of the results of benchmarks."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.harness import report, results
from benchmarks.harness.settings import Setting

from .trials import CPU, some_timings


def test_the_stored_tables_are_the_stored_results():
    assert report.page(report.load()) == report.DOCS.read_text()


@pytest.fixture
def stored() -> dict:
    timings = some_timings()
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
