"""Two processes for all tests of this folder, made anew after one of them has failed."""

import pytest

from .. import backend
from .processes import ProcessGroup


@pytest.fixture(scope="session")
def _groups():
    groups = []
    yield groups
    for group in groups:
        group.close()


@pytest.fixture
def pair(_groups):
    """Two processes that form a group over gloo."""
    if backend.NAME != "cpu":
        pytest.skip(f"not on {backend.NAME}: the processes run the library for CPUs")
    if not _groups or not _groups[-1].is_open:
        _groups.append(ProcessGroup(2))
    return _groups[-1]
