"""How Sphinx builds these pages: ``make docs``."""

import re
from operator import attrgetter
from pathlib import Path

from sphinx.util.nodes import make_refnode

import equifast

project = "equifast"
copyright = "equifast contributors"
version = release = equifast.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = f"equifast {version}"

# Links such as ops.md#orbit lead to headings, as they do where pages are read without being built.
myst_heading_anchors = 3

# In docstrings, single backquotes stand around a name that the reference has. Names of PyTorch and of Python aren't
# looked up, since that would take a connection to their pages.
nitpicky = True
default_role = "py:obj"
ALIASES = r"Tensor|Module|.*\._entries\.Targets|(.*\.)?(Transforms|ListsElements)"
nitpick_ignore_regex = [("py:.*", rf"(torch|collections|pathlib)\..*|{ALIASES}")]
napoleon_use_rtype = False

#: The page of operations, and where the section of one begins.
OPS = Path(__file__).with_name("ops.md")
HEADING = re.compile(r"^## `(\w+)`$", re.MULTILINE)


def full_name(op: str) -> str:
    """The name by which users call the operation of a section."""
    return op if hasattr(equifast, op) else f"losses.{op}"


#: What the page of operations describes.
DESCRIBED = [attrgetter(full_name(op))(equifast) for op in HEADING.findall(OPS.read_text())]


def add_docstrings(app, docname, source):
    """End the section of each operation with its docstring, which the page itself leaves to ``help``."""
    if docname == OPS.stem:
        sections = re.split(r"(?m)^(?=## )", source[0])
        for i, section in enumerate(sections):
            if found := HEADING.match(section):
                sections[i] += f"```{{eval-rst}}\n.. autofunction:: equifast.{full_name(found[1])}\n```\n\n"
        source[0] = "".join(sections)


def leave_to_ops(app, what, name, obj, skip, options):
    """Keep from other pages what the page of operations describes."""
    return True if any(obj is op for op in DESCRIBED) else None


def find_by_last_names(app, env, node, content):
    """Resolve a name that a docstring gives from within the package, such as `CanonicalForm.element`."""
    if node.get("refdomain") != "py":
        return None
    objects = env.domains.python_domain.objects
    ends = [name for name in objects if name.endswith("." + node["reftarget"])]
    if not ends:
        return None
    name = min(ends, key=lambda name: (name.count("."), name))
    return make_refnode(app.builder, node["refdoc"], objects[name].docname, objects[name].node_id, content, name)


def setup(app):
    app.connect("source-read", add_docstrings)
    app.connect("autodoc-skip-member", leave_to_ops)
    app.connect("missing-reference", find_by_last_names)
