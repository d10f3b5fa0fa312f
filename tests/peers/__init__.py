"""Tests beside other packages: those that this one is compared with, and those whose networks it runs.

``make test-peers`` installs them and sets EQUIFAST_REQUIRE_PEERS, so that a peer that can't be imported fails a test
there. Elsewhere the test is skipped, with the reason.
"""

import functools
import json
import os
import sys
import types
from importlib.metadata import distribution
from pathlib import Path

import pytest

from benchmarks.harness import published

THEIRS, OURS = "equiadapt", "equifast.compat.equiadapt"


def missing(why):
    """Fail, or skip, the test that asked for a peer."""
    if os.environ.get("EQUIFAST_REQUIRE_PEERS", "0") != "0":
        pytest.fail(f"EQUIFAST_REQUIRE_PEERS is set, and a peer can't be imported: {why}")
    pytest.skip(f"a peer can't be imported: {why}")


def equiadapt():
    """The published package."""
    found, why = published.package()
    if found is None:
        missing(why)
    import equiadapt

    return equiadapt


@functools.cache
def torchvision():
    """torchvision, also where it was built for CUDA and torch was not."""
    try:
        published.declare_torchvision_operators()
        import torchvision
    except Exception as error:  # what doesn't fit this torch raises more than ImportError
        missing(error)
    return torchvision


def path(name):
    """A file that the published package installs: its examples and tutorials are among them."""
    equiadapt()
    return Path(distribution("equiadapt").locate_file(name))


def with_import_changed(code, package):
    """Code that was written for equiadapt, with ``package`` in its import lines."""
    return code.replace("from equiadapt.", f"from {package}.")


def load(monkeypatch, module, file, package):
    """A module of equiadapt's examples, from its installed source with the import lines changed."""
    made = types.ModuleType(module)
    code = with_import_changed(path(file).read_text(), package)
    exec(compile(code, file, "exec"), made.__dict__)
    monkeypatch.setitem(sys.modules, module, made)
    return made


def cells(notebook, package, changes):
    """The code cells of a tutorial, with the import lines and some numbers changed; each change has to apply."""
    content = json.loads(path(notebook).read_text())
    codes = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    text = "\0".join(with_import_changed(code, package) for code in codes if not code.startswith("!"))
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text.split("\0")
