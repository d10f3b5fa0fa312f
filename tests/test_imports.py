"""Imports go one way: which room of the package may import from which, and no circle anywhere."""

import ast
import graphlib
from pathlib import Path

import pytest

import equifast

PACKAGE = Path(equifast.__file__).parent

#: Each room and the rooms that it imports from. A room is a module or a folder of the package; the Triton kernels have
#: three. `reference` is the oracle: it must not stand below what it judges, so only fallbacks and checks import it.
ARROWS = {
    "allocator": "",
    "compiler": "",
    "schemas": "",
    "dtypes": "",
    "geometry": "",
    "layers": "",
    "choice": "",
    "backends": "schemas",
    "groups": "compiler geometry",
    "checks": "dtypes",
    "transform_set": "geometry groups",
    "representations": "geometry groups transform_set",
    "disc": "dtypes",
    "frames": "groups",
    "reference": "choice disc dtypes frames geometry groups representations scores transform_set",
    "kernels.device": "backends geometry",
    "kernels.host": "backends geometry layers",
    "kernels": "dtypes geometry kernels.device kernels.host layers schemas",
    "ops": "backends checks choice dtypes geometry groups kernels layers reference representations schemas "
    "scores transform_set",
    "flops": "ops schemas",
    "scores": "checks dtypes",
    "preprocess": "checks reference transform_set",
    "losses": "checks choice dtypes groups lazy_orbit ops orbit_vectors transform_set",
    "estimators": "checks choice dtypes groups ops transform_set",
    "targets": "checks dtypes geometry groups ops transform_set",
    "gating": "checks choice groups",
    "averaging": "checks choice dtypes groups lazy_orbit ops representations transform_set",
    "canonical_form": "averaging checks choice dtypes groups losses ops refinement representations targets "
    "transform_set",
    "orbit_functions": "compiler ops transform_set",
    "lazy_orbit": "ops orbit_functions transform_set",
    "orbit_vectors": "lazy_orbit transform_set",
    "canonicalize": "canonical_form checks choice estimators groups ops orbit_vectors refinement scores transform_set",
    "nn": "averaging canonical_form canonicalize checks compiler disc dtypes estimators frames geometry groups "
    "layers lazy_orbit ops orbit_vectors refinement scores transform_set",
    "refinement": "averaging choice dtypes estimators groups ops transform_set",
    "compat": "canonical_form canonicalize checks estimators groups losses nn ops representations targets",
    "info": "backends kernels.host",
    "datasets": "allocator canonical_form canonicalize groups nn ops scores targets",
    "diagnose": "allocator canonical_form canonicalize checks datasets disc groups nn ops",
    "command": "datasets diagnose info",
}

FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(module: str) -> set[str]:
    """Modules of this package that a module imports, wherever in its text."""
    names = set()
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(filter(None, (above, node.module)))
            names.update(f"{origin}.{alias.name}" for alias in node.names)
    ours = {next((n for n in (name, name.rpartition(".")[0]) if n in FILES), "") for name in names}
    return ours - {"", "equifast", module}


def room(module: str) -> str:
    parts = module.split(".")[1:]
    return ".".join(parts[:2] if parts[:2] in (["kernels", "device"], ["kernels", "host"]) else parts[:1])


MODULES = [module for module in FILES if module != "equifast"]


def test_every_room_is_in_the_table():
    assert {room(module) for module in MODULES} == set(ARROWS)


@pytest.mark.parametrize("name", ARROWS)
def test_a_room_imports_from_these_and_no_others(name):
    found = {room(other) for module in MODULES if room(module) == name for other in imported(module)}
    assert found - {name} == set(ARROWS[name].split())


def test_no_module_is_entered_twice_on_one_way():
    """Imports within functions count too: they are how a circle is hidden."""
    graphlib.TopologicalSorter({module: imported(module) for module in MODULES}).prepare()


def test_kernels_are_judged_by_an_oracle_that_they_do_not_import():
    below = {module: imported(module) for module in MODULES}
    reached, waiting = set(), [module for module in MODULES if room(module).startswith(("kernels", "backends"))]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += below[module]
    assert "equifast.reference" not in reached
