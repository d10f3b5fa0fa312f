"""Fixtures for the laws of every op, and the check that no op of the backend under test goes without them."""

import importlib
from pathlib import Path

import pytest
import torch

from equifast import reference

from .. import backend

HERE = Path(__file__).parent


@pytest.fixture
def sampling_is_eager(monkeypatch):
    """Interpolation of base images and its adjoint have laws of their own, and take the interpreter seconds."""
    if backend.NAME != "interpreter":
        return

    def base_images(x, bases, mode):
        images = torch.cat([reference.sample(x, (0, base), mode) for base in bases])
        return images.contiguous(memory_format=torch.channels_last) if x.stride(1) == 1 else images

    def adjoint(y, base, mode):
        return reference.sample_adjoint(y, (0, base), mode)

    host = importlib.import_module("equifast.kernels.orbit_conv2d_backward")
    monkeypatch.setattr(host, "base_images", base_images)
    monkeypatch.setattr(host, "_interpolation_adjoint", adjoint)


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
