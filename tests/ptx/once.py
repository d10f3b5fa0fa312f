"""A plugin of pytest: of each law of an op, the first case that sanitizers watch too, and no other."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the other cases. What is no law of an op stays."""
    seen: set[str] = set()
    kept, others = [], []
    for item in items:
        law = item.nodeid.partition("[")[0]
        is_law = item.path.parent.name == "ops"
        if is_law and (law in seen or not item.get_closest_marker("sanitized")):
            others.append(item)
        else:
            kept.append(item)
            seen.add(law)
    items[:] = kept
    config.hook.pytest_deselected(items=others)
