"""Rows of orbits by element: row e·B + b of (E·B, …) is entry (e, b) of (E, B, …)."""

from __future__ import annotations

from torch import Tensor


def by_element(rows: Tensor, order: int) -> Tensor:
    """(E·B, …) → (E, B, …), a view."""
    return rows.view(order, rows.shape[0] // order, *rows.shape[1:])
