"""A plugin of pytest: of each law of an op, the first case that sanitizers watch too, and no other.

Of a file in which they watch nothing, it is the first case of each law.
"""

from __future__ import annotations

import pytest

from ..once import deselect_later_cases


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the other cases. What is no law of an op stays."""
    watched = {item.path for item in items if item.get_closest_marker("sanitized")}

    def stays(item: pytest.Item) -> bool | None:
        if item.path.parent.name != "ops":
            return True
        return False if item.path in watched and not item.get_closest_marker("sanitized") else None

    deselect_later_cases(config, items, stays)
