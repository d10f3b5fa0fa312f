"""The check that no op of the backend under test goes without its laws."""

from pathlib import Path

import pytest

from .. import backend

HERE = Path(__file__).parent


def files_of(op: str) -> set[str]:
    """The files that may hold the laws of an op: its own, or that of the op whose backward or variant it is."""
    names = {op, op.removesuffix("_backward"), op.removesuffix("_backward").removesuffix("_direct")}
    return {f"test_{name}.py" for name in names}


def untested(items: list[pytest.Item]) -> list[str]:
    """The ops that the backend under test has, but of whose laws it would run none of these."""
    run = {item.path.name for item in items if not skipped(item) and item.path.parent == HERE}
    return [op for op in backend.ops() if not files_of(op) & run]


def skipped(item: pytest.Item) -> bool:
    return any(mark.args[0] for mark in item.iter_markers("skipif"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Where all of this folder is collected, an op without a law is an error."""
    whole = any(
        "::" not in arg and HERE.is_relative_to(Path(arg.split("::")[0]).resolve()) for arg in session.config.args
    )
    narrowed = any(session.config.getoption(name) for name in ("keyword", "markexpr"))
    if whole and not narrowed and (missing := untested(session.items)):
        raise pytest.UsageError(f"{backend.NAME} has these ops, but runs no test of them: {', '.join(missing)}")
