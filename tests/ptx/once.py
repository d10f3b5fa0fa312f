"""A plugin of pytest: of each law of an op, the first case that sanitizers watch too, and no other.

Of a file in which they watch nothing, it is the first case of each law.
"""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the other cases. What is no law of an op stays."""
    watched = {item.path for item in items if item.get_closest_marker("sanitized")}
    seen: set[str] = set()
    kept, others = [], []
    for item in items:
        law, _, _ = item.nodeid.partition("[")
        is_left_out = item.path in watched and not item.get_closest_marker("sanitized")
        if item.path.parent.name == "ops" and (law in seen or is_left_out):
            others.append(item)
        else:
            kept.append(item)
            seen.add(law)
    items[:] = kept
    config.hook.pytest_deselected(items=others)
