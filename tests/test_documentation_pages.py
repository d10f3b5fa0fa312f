"""What the pages name is there: every public name has a place in them, every command exists.

``make docs`` checks links between pages, and names in docstrings.
"""

import importlib
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import equifast
import equifast.compat.equiadapt
import equifast.targets

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="needs the source tree")

#: Programs that come with the system, with PyTorch or with this package.
PROGRAMS = {"cat", "equifast", "export", "make", "pip", "python", "source", "torchrun"}


def commands():
    """The words of each command in the pages, without variables before it and comments after it."""
    for page in PAGES:
        for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
                words = shlex.split(line, comments=True)
                while re.match(r"[A-Z_]+=", words[0]):
                    del words[0]
                yield pytest.param(words, id=f"{page.name}: {' '.join(words)}")


def test_every_public_module_is_in_the_reference():
    """Sphinx takes the names in them from ``__all__``, and those of operations from the page of operations."""
    described = set(re.findall(r"^\.\. automodule:: (\S+)$", (ROOT / "docs/reference.rst").read_text(), re.MULTILINE))
    modules = {f"equifast.{name}" for name in equifast.__all__ if isinstance(getattr(equifast, name), ModuleType)}
    assert described >= {"equifast"} | modules and len(modules) > 3
    assert all(find_spec(name) for name in described)


@pytest.mark.parametrize("module", [equifast, equifast.nn, equifast.targets, equifast.compat.equiadapt])
def test_every_public_name_has_a_docstring(module):
    """Sphinx leaves out what has none."""
    public = {name: getattr(module, name) for name in module.__all__}
    assert [name for name, thing in public.items() if callable(thing) and not thing.__doc__] == []


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_exists(words):
    assert words[0] in PROGRAMS
    if words[0] == "make":
        targets = re.findall(r"^[\w.-][\w. -]*(?=:)", (ROOT / "Makefile").read_text(), re.MULTILINE)
        wanted = {word for word in words[1:] if "=" not in word}
        assert wanted <= {target for line in targets for target in line.split()}
    if "-m" in words:
        assert find_spec(words[words.index("-m") + 1])
    for script in (word for word in words[1:] if word.endswith(".py")):
        assert (ROOT / script).exists()
    for extras in (re.fullmatch(r"(?:\.|equifast)\[(.+)\]", word) for word in words[1:]):
        declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert extras is None or set(extras[1].split(",")) <= set(declared)


@pytest.fixture
def concepts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("concepts")


CONCEPTS = (ROOT / "docs/concepts.md").read_text()


@pytest.mark.parametrize("name", re.findall(r"^!\[.*\]\((.*)\)$", CONCEPTS, re.MULTILINE))
def test_the_pictures_of_the_concepts_are_what_the_example_draws(name, concepts, tmp_path):
    """Up to how text is rendered, which depends on the versions of matplotlib and FreeType."""
    concepts.PICTURES[name](tmp_path / name)
    drawn, published = (Image.open(path / name).convert("L") for path in (tmp_path, ROOT / "docs"))
    assert drawn.size == published.size
    # Means of 8×8 pixels: there the letters of another version are off by less than 64, a turned digit by more.
    size = [side // 8 for side in drawn.size]
    means = (np.asarray(image.resize(size, Image.Resampling.BOX), int) for image in (drawn, published))
    assert abs(np.subtract(*means)).max() < 64
    assert (ROOT / "docs" / name).stat().st_size < 150_000


def test_the_concepts_show_one_canonical_image(concepts):
    """What the captions say: views share their canonical image, and the ids tell the views apart."""
    forms = [concepts.form_of(concepts.digit().rot90(quarters, (2, 3))) for quarters in range(4)]
    assert [form.element.item() for form in forms] == [0, 1, 2, 3]
    assert all((form.image == concepts.digit()).all() for form in forms)


def messages():
    """The messages of the table in docs/install.md, without those of other programs."""
    table = (ROOT / "docs/install.md").read_text().partition("## Messages, and what to do")[2].partition("\n## ")[0]
    for cell in re.findall(r"^\| (.*?) \| ", table, re.MULTILINE)[1:]:
        if not cell.startswith("`pip`"):
            yield from re.findall(r"`([^`]*)`", cell)


@pytest.mark.parametrize("message", list(messages()))
def test_a_message_of_the_installation_is_in_the_sources(message):
    """A run of its words at least, between what depends on the machine: the rest may be on another line."""
    files = [ROOT / name for name in ("Makefile", "setup.py", "toolchain.py")] + [*ROOT.glob("equifast/**/*.py")]
    text = "\n".join(path.read_text() for path in files)
    parts = [part.split() for part in message.split("…")]
    runs = [part[i : i + 3] for part in parts if len(part) > 1 for i in range(max(len(part) - 2, 1))]
    assert any(" ".join(run) in text for run in runs)
