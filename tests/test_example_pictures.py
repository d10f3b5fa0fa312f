"""The examples with ImageNet networks and with aerial photographs, on tiny slices and with networks that stand in."""

import importlib
import json
import math
from pathlib import Path

import pytest
import torch

import equifast
from equifast import scores

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the source tree")


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the examples by name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def photograph(width: int, height: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(256, (3, height, width), dtype=torch.uint8)


CROWNS = torch.tensor([[40.0, 60.0, 70.0, 80.0], [150.0, 10.0, 190.0, 50.0], [0.0, 100.0, 20.0, 130.0]])


def test_windows_turn_about_a_crown(example):
    """A quarter turn of the camera is one of the window, bit for bit, and half of the windows have a tree."""
    crops = example("crops")
    windows = crops.windows(photograph(240, 180), CROWNS)
    assert windows.images.shape == (8, 6, 3, 48, 48) and windows.labels.tolist() == [1, 1, 1, 0, 0, 0]
    for turn in range(4):
        assert torch.equal(windows.images[2 * turn], windows.images[0].rot90(turn, (2, 3)))
    for between in windows.images[1::2]:
        assert not torch.equal(between, windows.images[0])
    deviation, mean = torch.std_mean(windows.images[0], (0, 2, 3))
    torch.testing.assert_close(torch.stack([deviation, mean]), torch.tensor([[1.0] * 3, [0.0] * 3]), atol=1e-4, rtol=0)


def test_the_centre_of_a_window_is_the_centre_of_its_crown(example):
    """A white crown on black: its window is white in the middle, and turning about it moves nothing from there."""
    crops = example("crops")
    pixels = torch.zeros(3, 180, 240, dtype=torch.uint8)
    pixels[:, 60:80, 45:65] = 255
    images = crops.windows(pixels, torch.tensor([[45.0, 60.0, 65.0, 80.0]])).images
    middle = images[:, :, :, 22:26, 22:26].amin((2, 3, 4))
    assert (middle[:, 0] > images[:, 0].mean((1, 2, 3))).all()
    assert torch.allclose(images[:, 0].mean((1, 2, 3)), images[0, 0].mean(), atol=0.05)


def test_windows_without_trees_are_clear_of_crowns(example):
    crops = example("crops")
    places = crops.clear(240, 180, CROWNS.repeat(10, 1), seed=0)
    assert len(places) == 30
    for left, top, right, bottom in CROWNS.tolist():
        near = (places[:, 0] > left - 8) & (places[:, 0] < right + 8)
        assert not (near & (places[:, 1] > top - 8) & (places[:, 1] < bottom + 8)).any()
    with pytest.raises(ValueError, match="expected room for 1 windows beside them, got 0"):
        crops.clear(20, 20, torch.tensor([[0.0, 0.0, 20.0, 20.0]]), seed=0)


def test_a_label_leaks_where_the_element_tells_it(example):
    leak = example("aerial").leak
    labels, told = torch.tensor([0, 1, 0, 1]), torch.tensor([2, 3, 2, 3])
    assert leak(told, labels, told, labels, 4) == 100
    assert leak(told, labels, told, 1 - labels, 4) == 0
    assert leak(torch.zeros(4, dtype=torch.int64), labels, told, labels, 4) == 50


@pytest.fixture(scope="module")
def aerial_results():
    """The whole aerial example on two made-up photographs, an epoch each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        patch.setattr("aerial.BATCH", 4)
        import aerial
        import crops

        photographs = {n: crops.windows(photograph(240, 180 + 20 * i), CROWNS) for i, n in enumerate(("here", "there"))}
        runs, model = aerial.run(photographs, epochs=1, seeds=1)
        counts = {name: 3 for name in photographs}
        yield {"trees": counts, "epochs": 1, "threads": 1, "runs": runs}, model, photographs["here"]


def test_canonicalizers_do_not_mind_quarter_turns(aerial_results):
    """Nor do they with random parameters; the shares of their elements are then equal over the four turns."""
    results, *_ = aerial_results
    assert len(results["runs"]) == 2 * 8
    for run in results["runs"]:
        assert len(run["accuracy"]) == 8 and run["seconds"] > 0
        if run["method"].startswith("canonicalizer"):
            assert run["spread"][0] < 1e-5 and run["accuracy"][0] == run["accuracy"][2] == run["accuracy"][4]
            assert sum(run["stored"]) == pytest.approx(100, abs=0.1) == sum(run["turned"])
        if run["method"] == "canonicalizer C4, trained":
            assert run["turned"] == pytest.approx([25] * 4, abs=0.02)
    plain = [run["spread"][0] for run in results["runs"] if run["method"] == "plain"]
    assert min(plain) > 1e-3


def test_a_random_canonicalizer_stays_as_it_is(example):
    """`learned=False` trains the classifier alone; otherwise the loss of the task reaches the canonicalizer."""
    aerial, crops = example("aerial"), example("crops")
    windows = crops.windows(photograph(240, 180), CROWNS.repeat(11, 1), views=(0,))
    for method in (method for method in aerial.METHODS if method.canonical):
        torch.manual_seed(0)
        model = aerial.Model(method)
        before = model.canonicalizer.reference.clone()
        aerial.train(model, windows, epochs=1)
        assert torch.equal(before, model.canonicalizer.reference) != method.learned


def test_the_aerial_report_says_what_the_runs_say(aerial_results, example, tmp_path):
    results, model, windows = aerial_results
    report = example("aerial_report")
    text = report.text(results)
    rows = [line for line in text.splitlines() if line.startswith("| plain ")]
    plain = [run for run in results["runs"] if run["method"] == "plain"]
    expected = sum(run["accuracy"][3] for run in plain) / len(plain)
    assert rows[0].split("|")[5].strip() == f"{expected:.1f}"
    report.draw(results, model.canonicalizer, windows, tmp_path / "aerial.png")
    assert (tmp_path / "aerial.png").stat().st_size > 1000


def test_entropy_and_interpolated_shares(example):
    report = example("aerial_report")
    assert report.entropy([25.0] * 4) == pytest.approx(100) and report.entropy([100.0, 0.0]) == 0
    assert report.entropy([50.0, 50.0, 0.0, 0.0]) == pytest.approx(50)
    assert report.interpolated({"turned": [1, 2, 4, 8, 16, 32, 64, 128]}) == 2 + 8 + 32 + 128
    assert report.interpolated({"turned": [10, 20, 30, 40]}) == 0


NAMES = [["tench", "Tinca tinca"], ["brown bear", "bruin"], ["flamingo"], ["Chihuahua"], ["pug"], ["Mexican hairless"]]
NAMES += [["ox"], ["bullfrog"], ["Boston bull"], ["sea lion"]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("A bear.", [1]),  # any bear
        ("A pink flamingo (a bird).", [2]),  # is a flamingo
        ("A dog.", [3, 4, 5]),  # any breed
        ("A bull.", [6]),  # not the dog
        ("A frog!", [7]),
        ("A lion.", [9]),  # a rule goes by words, and a sea lion is the only lion here
        ("A black bear.", []),  # is no brown bear
        ("A chair.", []),
        ("", []),
    ],
)
def test_names_stand_for_classes(example, name, expected):
    example("data")
    assert example("data.classes").classes(name, True, NAMES) == expected


def test_animals_are_of_animal_classes(example):
    """Elsewhere the same word means something else: a mouse is no animal among the household."""
    example("data")
    names = [["mouse"]] + [["other"]] * 400 + [["mouse", "computer mouse"]]
    classes = example("data.classes").classes
    assert classes("A mouse.", True, names) == [0] and classes("A mouse.", False, names) == [401]


def test_cut_outs_are_whole_and_on_white(example):
    imagenet = example("imagenet")
    pixels = torch.zeros(4, 30, 10, dtype=torch.uint8)
    pixels[3] = 255
    pixels[3, :, :5] = 0
    image = imagenet.on_white(pixels, 60)
    assert image.shape == (3, 60, 60)
    assert image[:, :, 12:28].amin() > 254 and image[:, :, 45:].amin() > 254
    assert image[:, 2:58, 32:38].amax() < 1
    assert imagenet.fold("animals/frog-1.png") == imagenet.fold("animals/frog.png") == "frog"


def test_methods_answer_by_the_orbit(example):
    """On made-up logits: the rival sums probabilities, a judge picks one row; only its own fold's judge is asked."""
    imagenet = example("imagenet")
    logits = torch.full((2, 4, 3), -9.0)
    for image, rows in enumerate(([2, 1, 1, 0], [0, 0, 1, 2])):
        for member, best in enumerate(rows):
            logits[image, member, best] = 9.0
    found = imagenet.answers(logits, {"judge": torch.tensor([3, 2])})
    assert {name: classes.tolist() for name, classes in found.items()} == {
        "alone": [2, 0], "mean of the 4 outputs": [1, 0], "judge": [0, 1],
    }  # fmt: skip
    assert imagenet.accuracy(torch.tensor([2, 0]), torch.eye(3, dtype=torch.bool)[[2, 1]]) == 50
    judges = [lambda x, k=k: torch.nn.functional.one_hot(torch.full((len(x),), k), 4) for k in range(3)]
    assert imagenet.chosen_by(judges, torch.zeros(4, 1), torch.tensor([2, 0, 1, 2])).tolist() == [2, 0, 1, 2]


@pytest.fixture(scope="module")
def imagenet_results():
    """The whole ImageNet example with a network that stands in, and pictures that are bright at their upper edge."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import imagenet
        import orientation

        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 8, 8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
            torch.nn.Linear(32, 1000),
        ).eval().requires_grad_(False)  # fmt: skip
        images = torch.rand(16, 3, 64, 64) * 99 + torch.linspace(150, 0, 64).view(64, 1)
        right = network(images).argmax(1)
        pictures = imagenet.Pictures(images, torch.nn.functional.one_hot(right, 1000).bool(), torch.arange(16) % 4)
        small = [orientation.small(orientation.shrink(images), steps=60, batch=8)] * 5
        judges = [orientation.activations(module) for module in small]
        runs = [
            {"network": "stand-in", **row}
            for row in imagenet.run(network, "", pictures, {"noise": torch.arange(16) < 12}, pictures, judges)
        ]
        ms = {"stand-in": imagenet.cost(network, images[:1], orientation.whole(small[0]), rounds=1)}
        yield {"stamps": 16, "steps": 60, "threads": 1, "ms": ms, "runs": runs}


def test_answers_do_not_mind_quarter_turns(imagenet_results):
    by_method = {run["method"]: run for run in imagenet_results["runs"] if run["data"] == "noise"}
    assert {run["data"] for run in imagenet_results["runs"]} == {"noise", "16 photographs"}
    assert set(by_method) == set(imagenet_results["ms"]["stand-in"]) and len(by_method) == 5
    for method, run in by_method.items():
        assert len(run["accuracy"]) == 4 and (method == "alone" or len(set(run["accuracy"])) == 1)
    assert by_method["alone"]["accuracy"][0] == 100
    small = by_method["small network, trained"]
    assert small["upright"] > 90 and small["accuracy"][0] > 90


def test_a_linear_judge_learns_what_the_classes_say(example):
    """Of orbits whose first member alone looks like class 0, it prefers the first, wherever that is."""
    orientation = example("orientation")
    torch.manual_seed(0)
    logits = torch.randn(40, 4, 6)
    logits[:, 0, 0] += 3
    judge = orientation.linear(logits)
    assert (judge(logits).argmax(1) == 0).float().mean() > 0.9
    turned = logits.roll(2, 1)
    torch.testing.assert_close(judge(turned), judge(logits).roll(2, 1))
    confident = scores.confidence(logits.flatten(0, 1)).view(40, 4).argmax(1) == 0
    assert confident.float().mean() < (judge(logits).argmax(1) == 0).float().mean()


def test_shrinking_commutes_with_quarter_turns(example):
    equifast.check_preprocess(example("orientation").shrink, torch.rand(2, 3, 96, 96) * 255, "C4")


def test_the_imagenet_report_says_where_the_mean_is_ahead(imagenet_results, example, tmp_path):
    report = example("imagenet_report")
    results = json.loads(json.dumps(imagenet_results))
    for run in results["runs"]:
        run["accuracy"] = [{"alone": 40.0, report.MEAN: 70.0, "own confidence": 75.0}.get(run["method"], 65.0)] * 4
    said = report.findings(results).splitlines()[0]
    assert "the mean has 70.0 %, and the network alone 40.0 %" in said
    assert "ahead of the mean by 5.0 (*own confidence*)" in said
    assert "averaging beats canonicalization by 5.0 (*linear, trained*), 5.0 (*small network, trained*)" in said
    report.draw(results, tmp_path / "imagenet.png")
    assert (tmp_path / "imagenet.png").stat().st_size > 1000


def test_a_section_is_replaced_and_the_rest_stays(example):
    published = example("published")
    page = "a\n<!-- one -->\nold\n<!-- end of one -->\nb\n<!-- two -->\n<!-- end of two -->\n"
    changed = published.insert(page, "one", "new \\1")
    assert changed == page.replace("old", "\nnew \\1\n") and published.insert(changed, "one", "new \\1") == changed
    with pytest.raises(ValueError, match="got 0"):
        published.insert(page, "three", "")


def test_tables_line_up(example):
    lines = example("published").table(["", "ms"], [["plain", "1.0"], ["mean of eight", "10.25"]]).splitlines()
    assert len(set(map(len, lines))) == 1 and lines[1].startswith("|:--") and lines[1].endswith("-:|")


@pytest.mark.parametrize("name", ["aerial", "imagenet"])
def test_the_page_is_written_from_the_results(example, name):
    published = example("published")
    text = example(f"{name}_report").text(published.load(name))
    page = published.PAGE.read_text()
    assert published.insert(page, name, text) == page
    assert not any(math.isnan(value) for run in published.load(name)["runs"] for value in run["accuracy"])


def test_the_gate_by_numbers(example):
    """Of logits that are made up: an upright picture, one that is turned wrongly, and one without an orientation."""
    gate = example("gate")
    logits = torch.zeros(3, 4, 1000)
    logits[0, 0, 1], logits[1, 0, 2], logits[1, 3, 5] = 9, 9, 10
    right = torch.zeros(3, 1000, dtype=torch.bool)
    right[0, 1] = right[1, 2] = right[2, 0] = True
    upright, turned = gate.curve(logits, right, [0, 0.5, 2, math.inf])
    assert upright == pytest.approx([100 * n / 3 for n in (2, 2, 3, 3)])
    assert turned == pytest.approx([100 * n / 3 for n in (2, 2, 2.25, 1.5)])
    assert gate.undecided(logits) == pytest.approx(100 / 3)


def test_images_without_an_orientation(example):
    gate = example("gate")
    images = 255 * torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = gate.without_orientation(images)
    assert all(others.shape == images.shape for others in found.values())
    symmetric = found["means over an orbit"]
    torch.testing.assert_close(symmetric, torch.rot90(symmetric, 1, (2, 3)))
    shuffled = found["pictures with their pixels in disorder"]
    assert torch.equal(shuffled.flatten(2).sort().values, images.flatten(2).sort().values)


def test_the_report_of_the_gate(example, tmp_path):
    gate = example("gate")
    runs = [
        {"gate": 0, "upright": 70.0, "turned": 70.0},
        {"gate": 1, "upright": 79.0, "turned": 68.0},
        {"gate": math.inf, "upright": 80.0, "turned": 50.0},
    ]
    report = gate.text({"pictures": 3, "threads": 1, "undecided": {"pictures": 10.0, "noise": 95.0}, "runs": runs})
    assert (
        "The gate 1 has 79.0 % of the pictures as they are and 68.0 % over all four turns, which is the best" in report
    )
    assert "pictures: 10 %; noise: 95 %" in report and "∞ (the network alone)" in report
    gate.draw(tmp_path / "gate.png", [0, 1, 2], [70, 79, 80], [70, 68, 60])
    assert (tmp_path / "gate.png").stat().st_size > 1000


def test_candidates_are_found_again(example, tmp_path):
    """By a network whose confidence is how much its image is like the original one; and the report of it."""
    candidates = example("candidates")
    y, x = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 24), indexing="ij")
    blob = torch.exp(-8 * (x - 0.1) ** 2 - 14 * (y + 0.15) ** 2)
    images = (
        255
        * torch.stack([blob, blob.mT, blob * (x + 1)]).expand(3, 3, 24, 24)
        / torch.tensor([1.0, 2, 1.5])[:, None, None, None]
    )
    originals = images.flatten(1)

    class Likeness(torch.nn.Module):
        def forward(self, rows):
            distance = torch.cdist(rows.flatten(1), originals).amin(1, keepdim=True)
            return torch.cat((10 / (1 + distance), torch.zeros(len(rows), 1)), 1)

    forms = candidates.found(Likeness(), images)
    for view, form in enumerate(forms):
        inverse = equifast.act(candidates.seen(images, view), form.element, group=candidates.CANDIDATES, inverse=True)
        torch.testing.assert_close(form.image, inverse)
        if view in (0, 2):  # permutations lose nothing
            assert (form.element == view).all() and torch.equal(form.image, images)
    right = torch.tensor([[True, False]]).expand(3, 2)
    runs = candidates.measured(forms, right)
    assert [run["view found"] for run in runs][0] == 100 and [run["view"] for run in runs] == list(candidates.VIEWS)
    report = candidates.text({"photographs": 3, "runs": runs})
    assert "3 photographs in each view" in report and "| mean" in report
    candidates.draw(tmp_path / "candidates.png", images[[0, 1, 2] * 5], [_of_more(form) for form in forms], runs)
    assert (tmp_path / "candidates.png").stat().st_size > 1000
    assert forms[2].element[candidates.shown(forms)[1]] == 2


def _of_more(form):
    """The same form of five times as many pictures."""
    many = {
        name: getattr(form, name).repeat(5, *[1] * (getattr(form, name).dim() - 1)) for name in ("image", "element")
    }
    return equifast.CanonicalForm(**many, activations=None, probabilities=None, vectors=None, group=form.group)
