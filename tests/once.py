"""A plugin of pytest, ``-p tests.once``: of each test the first case, and no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    deselect_later_cases(config, items)


def deselect_later_cases(
    config: pytest.Config, items: list[pytest.Item], stays: Callable[[pytest.Item], bool | None] = lambda item: None
) -> None:
    """Deselects all cases of a test but the first. ``stays`` may decide of a case before that, by True or False."""
    seen: set[str] = set()
    kept, others = [], []
    for item in items:
        test, _, _ = item.nodeid.partition("[")
        decided = stays(item)
        is_kept = test not in seen if decided is None else decided
        (kept if is_kept else others).append(item)
        if is_kept:
            seen.add(test)
    items[:] = kept
    config.hook.pytest_deselected(items=others)
