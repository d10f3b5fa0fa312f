"""The page of `examples/paper` follows the stored results."""

from __future__ import annotations

import equifast


def result(data, method, tuned, seed, accuracy, group="C4", **more):
    """A stored result whose accuracy falls by one point at each further element."""
    order = equifast.as_group(group).order
    angles = [accuracy - 0.01 * e for e in range(order)]
    scores = {"angles": angles, "accuracy": accuracy, "group_accuracy": sum(angles) / order, "error": 0.125}
    scores["identity"] = None if method in ("vanilla", "augmentation") else 0.75
    conditions = {"device": "a processor", "threads": 2, "cores": 2, "backend": "cpu", "commit": "abc", "quick": False}
    return {
        "kind": "run", "id": f"{data}-{method}-{tuned}-{seed}", "data": data, "method": method, "group": group,
        "tuned": tuned, "seed": seed, "source": "made up", "training_images": 1000, "test_images": 10,
        "parameters": 12345, "epochs": 3, "scores": {group: scores},
        "conditions": conditions | {"packages": {"torch": "2"}, "date": "2026-11-30", "load_before": 0.5}, **more,
    }  # fmt: skip


def times(group, **seconds):
    """Stored times: seconds of a step by method, and a thousandth of them for an image; twice as much in round 2."""
    found = {state: {"step": [s, 2 * s], "image": [s / 1000, s / 500]} for state, s in seconds.items()}
    return result("mnist", "times", False, 0, 1.0, group) | {"kind": "times", "group": group, "seconds": found}


def test_the_page_has_means_deviations_and_gaps(paper):
    page = paper("report").page(
        [result("mnist", "vanilla", False, seed, 0.97 + 0.01 * seed) for seed in range(3)]
        + [result("mnist", "equioptadapt", False, seed, 0.99 + 0.01 * seed) for seed in (0, 1)]
        + [result("mnist", "equiadapt", False, seed, 0.98 + 0.01 * seed) for seed in (0, 1)]
        + [times("C4", **{"vanilla, frozen": 0.1, "equioptadapt, frozen": 0.2, "equiadapt, frozen": 0.5})]
    )
    lines = page.splitlines()
    row = "| vanilla | frozen | 98.00 ± 1.00 | 96.50 ± 1.00 | – | 0.1250 ± 0.0000 | 12,345 "
    # Of 1,000 images there are four batches, three times over.
    assert row + "| 150.0 ± 70.7 ms | 2 ± 1 s | 0.150 ± 0.071 ms |" in lines
    assert "| EquiOptAdapt | frozen | 99.50 ± 0.71 | 98.00 ± 0.71 | 0.750 ± 0.000 |" in page
    # Three points lie between the first angle and the last, which is where the gap to 98.00 is taken.
    gaps = next(line for line in lines if line.startswith("| MNIST, C4 |")).split(" | ")
    assert gaps[1:] == ["3.00", "–", "2.50", "–", "1.50", "–", "–", "– |"]
    assert "* MNIST, C4, frozen: +1.00 ± 0.00 points" in lines
    assert "* C4: training 2.50×, inference 2.50×" in lines
    assert "quick" not in page


def test_training_takes_the_steps_of_all_its_parts(paper):
    summary = paper("summary")
    seconds = {f"{method}, {state}": 1.0 for method in ("vanilla", "augmentation") for state in ("frozen", "tuned")}
    seconds |= {"equioptadapt, frozen": 0.5, "equioptadapt, tuned": 2.0}
    methods = [("vanilla", True), ("augmentation", True), ("equioptadapt", True), ("equioptadapt", False)]
    stored = [result("mnist", method, tuned, 0, 0.9) for method, tuned in methods]
    found = summary.cells([*stored, times("C4", **seconds)])
    took = [summary.training_seconds(found[("mnist", "C4", *key)], found).value for key in methods]
    assert took == [1.5 * 12 * each for each in (1.0, 1.0, 2.0 + 0.5, 0.5)]
    assert summary.training_seconds(summary.cells(stored)["mnist", "C4", "vanilla", True], found) is None


def test_the_page_says_that_a_run_was_quick(paper):
    quick = result("mnist", "vanilla", False, 0, 0.9)
    quick["conditions"]["quick"] = True
    assert "**A quick run on 1,000 + 10 images" in paper("report").page([quick])


def curve(seed, theirs):
    names = ("EquiAdapt, equifast", "EquiAdapt, equiadapt", "EquiOptAdapt, equifast", "EquiOptAdapt, equiadapt")
    made = {name: {"steps": [0, 10], "seconds": [0.0, 1.0], "identity": [0.3, 0.96]} for name in names}
    made["EquiOptAdapt, equiadapt"] = theirs
    return result("mnist", "curve", False, seed, 1.0) | {"kind": "curve", "contenders": made, "group": "C4"}


def test_the_page_tells_what_was_reached_beside_the_published_package(paper):
    theirs = {"steps": [0, 10], "seconds": [0.0, 4.0], "identity": [0.3, 0.85]}
    page = paper("report").page([curve(0, theirs), curve(1, theirs)])
    assert "* EquiOptAdapt, MNIST, C4: a step takes 0.25 of its time: reached" in page
    assert "* EquiAdapt, MNIST, C4: a step takes 1.00 of its time: **not reached**" in page
    assert "| EquiOptAdapt, equiadapt | 400 ms | 0.850 | 4.0 s | 4.0 s | not reached | not reached |" in page
    absent = paper("report").page([curve(0, {"missing": "no module"})])
    assert "| EquiOptAdapt, equiadapt | – | – | – | – | – | – | not installed |" in absent
    assert "EquiOptAdapt, MNIST, C4: equiadapt is not installed" in absent


def test_report_writes_page_and_small_plots(paper, tmp_path):
    theirs = {"steps": [0, 10], "seconds": [0.0, 4.0], "identity": [0.3, 0.85]}
    runs = [result("mnist", method, False, 0, 0.9) for method in ("vanilla", "equioptadapt")]
    paper("report").write([*runs, curve(0, theirs)], tmp_path)
    page = (tmp_path / "does_it_work.md").read_text()
    for name in ("accuracy_by_angle.png", "identity_over_time.png"):
        assert f"]({name})" in page and 1000 < (tmp_path / name).stat().st_size < 200_000


def test_the_published_page_is_that_of_the_stored_results(paper):
    report = paper("report")
    assert (report.DOCS / report.PAGE).read_text() == report.page(report.published())
