"""docs/install.md lists every environment variable that is read here, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTALL = ROOT / "docs" / "install.md"
pytestmark = pytest.mark.skipif(not INSTALL.exists(), reason="needs the source tree")

FOLDERS = ("equifast", "csrc", "benchmarks", "examples", "tests", ".ci")
NAME = re.compile(r"[A-Z][A-Z_]*[A-Z]")

#: Of the system, not of this package.
SYSTEM = {"PATH", "PYTHONPATH", "LD_PRELOAD", "MPLBACKEND"}


def sources(*endings: str) -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path != Path(__file__)]
    return [path for path in [*ROOT.glob("*"), *found] if path.name.endswith(endings)]


def asked_for(text: str) -> Iterator[str]:
    """Names of variables in the expressions of a file in Python that have ``os.environ`` in them."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Call, ast.Subscript)):
            parts = list(ast.iter_child_nodes(node))
            names = [ast.unparse(part) for part in parts if isinstance(part, ast.Attribute)]
            if any(re.fullmatch(r"os\.environ(\.\w+)?", name) for name in names):
                inner = (each for part in parts for each in ast.walk(part) if isinstance(each, ast.Constant))
                yield from (str(each.value) for each in inner if NAME.fullmatch(str(each.value)))


def named(text: str) -> Iterator[str]:
    """Strings in Python that are names such as ours are. CMake has variables with such names, too."""
    return (name for name in re.findall(r'"(EQUIFAST_[A-Z_]+)"', text) if name not in CMAKE)


def in_other_languages(text: str) -> Iterator[str]:
    yield from re.findall(r'getenv\("(\w+)"\)', text)
    yield from re.findall(r"ENV\{(\w+)\}", text)


#: What CMakeLists.txt calls its own variables.
CMAKE = set(re.findall(r"\bEQUIFAST_[A-Z_]+", (ROOT / "CMakeLists.txt").read_text())) if INSTALL.exists() else set()


def read() -> set[str]:
    found = set()
    for text in (path.read_text() for path in sources(".py")):
        found.update(named(text))
        if "os.environ" in text:
            found.update(asked_for(text))
    for path in sources(".cpp", ".h", ".cu", ".cuh", "CMakeLists.txt"):
        found.update(in_other_languages(path.read_text()))
    return found - SYSTEM


def listed() -> set[str]:
    rows = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", INSTALL.read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_what_counts_as_reading():
    text = 'os.environ["AB"]; os.environ.get("CD", "1"); map(os.environ.get, ("EF", "GH")); f("IJ")'
    assert set(asked_for(text)) == {"AB", "CD", "EF", "GH"}
    assert list(named('f("EQUIFAST_KL", "AB", "EQUIFAST_ISA")')) == ["EQUIFAST_KL"]
    assert list(in_other_languages('std::getenv("LM"); $ENV{NO}')) == ["LM", "NO"]


def test_every_variable_that_is_read_is_listed():
    assert len(read()) > 20 and read() <= listed(), sorted(read() - listed())


def test_every_variable_that_is_listed_is_used():
    text = "\n".join(path.read_text() for path in sources(".py", ".cpp", ".h", ".txt", "Makefile", "run"))
    assert {name for name in listed() if not re.search(rf"\b{name}\b", text)} == set()
