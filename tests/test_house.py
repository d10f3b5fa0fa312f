"""One operation, one name, on every floor, and no list of operations that is kept by hand.

`CONTRIBUTING.md` tells which files a new operation needs. Here the operations are derived from the tree.
"""

import ast
import re
from pathlib import Path

import pytest

import equifast
from equifast import kernels, ops, reference
from equifast.ops import registry
from equifast.schemas import SCHEMAS

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="needs the source tree")


def stems(pattern: str) -> set[str]:
    return {path.stem for path in ROOT.glob(pattern)}


#: The operations of torch's dispatcher that have a file of their own: all but gradients, which are in the files of
#: what they are the gradient of.
OPS = {name for name in SCHEMAS if name in stems("equifast/ops/*.py")}

#: Those that users call.
PUBLIC = {name for name in OPS if callable(getattr(ops, name))}

#: Those that have a kernel for CPUs alone, as their own files say.
CPU_ONLY = OPS & registry.CPU_ONLY

#: A part of `orbit_conv2d`, in whose files C++ and the tests have it.
PARTS = {"orbit_conv2d_direct"}


def test_every_schema_belongs_to_an_operation():
    gradients = {name for name in SCHEMAS if name.endswith("_backward")}
    assert {name.removesuffix("_backward") for name in gradients} <= OPS
    assert set(SCHEMAS) == OPS | gradients and len(PUBLIC) > 8 and CPU_ONLY < OPS


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_operation_is_defined_exported_and_documented(name):
    assert callable(getattr(reference, name))
    assert hasattr(equifast, name) or hasattr(equifast.losses, name)
    assert f"\n## `{name}`\n" in (ROOT / "docs/ops.md").read_text()


@pytest.mark.parametrize(
    ("floor", "lacking"),
    [
        ("equifast/kernels/*.py", CPU_ONLY),
        ("tests/ops/test_*.py", PARTS),
        ("csrc/cpu/ops/*.cpp", OPS),
        ("csrc/cuda/ops/*.cpp", OPS),
    ],
)
def test_an_operation_has_the_same_name_on_every_floor(floor, lacking):
    """``lacking``: the operations that may lack a file on this floor."""
    found = {stem.removeprefix("test_") for stem in stems(floor)}
    gradients = {f"{name}_backward" for name in OPS}
    parts = {f"orbit_conv2d_grad_{what}" for what in ("input", "weight")}  # of orbit_conv2d_backward, each a kernel
    assert found - gradients - parts - {"__init__"} <= OPS
    assert found >= OPS - lacking


@pytest.mark.parametrize("library", ["cpu", "cuda"])
def test_a_file_in_c_registers_its_own_operations_only(library):
    for path in ROOT.glob(f"csrc/{library}/ops/*.cpp"):
        registered = re.findall(r'(?:impl\(|\{)"(\w+)", TORCH_BOX', path.read_text())
        assert registered, path
        assert {name.removesuffix("_backward").removesuffix("_direct") for name in registered} == {
            path.stem.removesuffix("_backward")
        }, path


def test_every_kernel_in_triton_is_of_an_operation():
    assert {name.removesuffix("_backward") for name in kernels.FILES} == OPS - CPU_ONLY


#: Files that export operations by name.
EXPORTS = {"equifast/__init__.py", "equifast/ops/__init__.py"}


def names_in(node: ast.AST) -> set[str]:
    """Operations that a list, tuple, set or dictionary names, and says no more of than a constant each."""
    if isinstance(node, ast.Dict):
        items = [key for key, value in zip(node.keys, node.values, strict=True) if isinstance(value, ast.Constant)]
    else:
        items = node.elts
    return {item.value for item in items if isinstance(item, ast.Constant) and item.value in SCHEMAS}


def test_nobody_lists_operations_by_hand():
    for path in [*ROOT.glob("equifast/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("*.py")]:
        if path.relative_to(ROOT).as_posix() in EXPORTS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
                assert len(names_in(node)) < 4, f"{path}:{node.lineno} lists operations"
    for path in [ROOT / "CMakeLists.txt", ROOT / "Makefile", *ROOT.glob("csrc/**/*.*")]:
        named = {name for name in SCHEMAS if f'"{name}"' in path.read_text()}
        assert len(named) < 4, f"{path} lists operations: {named}"


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_pages_name_files_that_exist(page):
    """Paths from the root, such as `equifast/ops/orbit.py`; `<op>` stands for any operation."""
    text = page.read_text()
    paths = re.findall(r"`((?:equifast|csrc|tests|benchmarks|docs|examples)/[\w./<>*-]*)`", text)
    missing = {path for path in paths if not list(ROOT.glob(path.replace("<op>", "*").rstrip("/")))}
    assert not missing
