"""Every block of code in README.md and docs/ runs, in wide and narrow types, and keeps the law of canonical images.

Those of docs/errors.md raise what stands above them.
"""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equifast

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ERRORS = ROOT / "docs" / "errors.md"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def blocks():
    """(page, number, code) of every block in Python; of a diff, what is there after it."""
    for page in (page for page in PAGES if page != ERRORS):
        found = re.findall(r"```(python|diff)\n(.*?)```", page.read_text(), re.DOTALL)
        for number, (language, code) in enumerate(found):
            if language == "diff":
                lines = [line[1:] for line in code.splitlines() if not line.startswith("-")]
                code = "\n".join(lines)
            yield pytest.param(code, id=f"{page.name}-{number}")


BLOCKS = list(blocks())


def test_other_languages_are_known():
    """A block in a language that is not looked for would never run."""
    languages = {name for page in PAGES for name in re.findall(r"^```(\w+)", page.read_text(), re.MULTILINE)}
    assert languages <= {"python", "diff", "console"} and len(BLOCKS) > 4


def network(outputs):
    """A linear network: of an image about zero, it tells the orientations apart."""
    head = nn.Linear(3 * 64, outputs, bias=False)
    nn.init.normal_(head.weight)
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(8), nn.Flatten(), head).eval()


def given(x):
    """What the pages speak of: images, a classifier, a scorer, labels and targets."""
    torch.manual_seed(0)
    detector = network(10)
    names = {
        "equifast": equifast,
        "torch": torch,
        "F": F,
        "x": x,
        "model": network(10),
        "scorer": network(16),
        "detector": lambda rows: {"features": detector(rows)},
        "reference": torch.randn(10),
        "loader": [(x, torch.arange(len(x)) % 10)],
        "masks": torch.arange(len(x) * x.shape[2] * x.shape[3]).reshape(len(x), *x.shape[2:]) % 7,
        "boxes": torch.rand(len(x), 3, 4),
    }
    names["canonicalizer"] = equifast.nn.Canonicalizer(names["scorer"], "C4").eval()
    return names


def images(dtype):
    coarse = torch.randn(12, 3, 9, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float32)
    return F.interpolate(coarse, (128, 128), mode="bicubic").to(dtype)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    """Modules made in the test have this type."""
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def run(code, x):
    """What the code leaves behind; its canonicalizer, if it makes one, called on the images in eval mode."""
    names = given(x)
    torch.manual_seed(1)
    exec(compile(code, "<documentation>", "exec"), names)
    if "Canonicalizer(" in code:
        with torch.no_grad():
            names["form"] = names["canonicalizer"].eval()(x)
    return names


@pytest.mark.parametrize("code", BLOCKS)
def test_runs_and_gives_one_canonical_image_for_every_quarter_turn(code, dtype):
    x = images(dtype)
    names = run(code, x)
    form = names.get("form")
    if form is None:  # an example that asserts what it shows, or imports alone
        lines = code.splitlines()
        assert any(line.startswith("assert ") for line in lines) or all(
            line.startswith(("from ", "import ", "#")) for line in lines
        )
        return
    assert form.image.dtype == dtype and form.element.unique().numel() > 1
    for quarters in range(1, 4):
        other = x.rot90(quarters, (2, 3))
        # Training sees the images, so on other images it would make another network.
        turned = names["canonicalizer"](other) if "optimizer" in code else run(code, other)["form"]
        alike = (turned.image == form.image).flatten(1).all(1) | form.tied | _nearly_tied(form)
        assert alike.all()
    # An untrained `ConvNetwork` hardly tells orientations apart in narrow types; the other networks here do.
    undecided = (form.tied | _nearly_tied(form)).float().mean()
    assert undecided < (0.2 if dtype == torch.float32 or "ConvNetwork" not in code else 1)


#: Each message of the page of errors, where … stands for anything, and the block below it.
FAILURES = re.findall(r"^### `([^\n]*)`\n\n```python\n(.*?)```", ERRORS.read_text(), re.DOTALL | re.MULTILINE)


def test_every_block_of_the_page_of_errors_has_its_message():
    text = ERRORS.read_text()
    assert len(FAILURES) == text.count("```python") == len(re.findall(r"^### ", text, re.MULTILINE)) > 10


@pytest.mark.parametrize(("message", "code"), FAILURES, ids=[message for message, _ in FAILURES])
def test_an_error_of_the_page_is_raised_by_its_block(message, code):
    pattern = ".*".join(map(re.escape, message.split("…")))
    with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
        exec(compile(code, "<documentation>", "exec"), given(images(torch.float32)))
    assert re.search(pattern, str(caught.value))


def _nearly_tied(form):
    """Where the two best scores differ by no more than the rounding of a resize, which depends on the orientation."""
    best = form.activations.double().topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]) < torch.finfo(form.image.dtype).eps * best[:, 0].abs()
