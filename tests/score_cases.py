"""Vectors for the tests of scores and losses, whichever kernels run them, and how near the results have to be."""

import itertools

import torch

from .cases import DTYPES, TOLERANCES, amid_nan, rand

ORDERS = (1, 2, 3, 5, 8, 16, 64)
#: d and B: programs cost milliseconds where they are interpreted, so every one of both, but not every pair.
SHAPES = ((1, 3), (5, 0), (31, 1), (128, 3), (300, 1), (31, 17))
LAYOUTS = {
    "contiguous": lambda v: v,
    "transposed": lambda v: v.t().contiguous().t(),
    "every_other": lambda v: torch.stack((v, -v), -1).flatten(-2)[..., ::2],
    "cut": lambda v: amid_nan(torch.cat((v, v), 1), 61)[:, : v.shape[1]],
}


def sweep(order, first):
    """Every shape, and all dtypes, layouts and flags by turns: (turn, vectors, reference, flag, name)."""
    kinds = list(itertools.product(LAYOUTS.items(), DTYPES, (False, True)))
    turn = len(SHAPES) * ORDERS.index(order) + first
    for d, batch in SHAPES if order < 64 else ((5, 0), (100, 2)):
        batch = min(batch, 17 if order < 8 else 5)
        (layout, lay), dtype, flag = kinds[turn * 7 % len(kinds)]
        vectors = lay(rand(order * batch, d, dtype=dtype) / d**0.25)
        r = torch.stack((rand(d, dtype=dtype, seed=1), torch.zeros(d, dtype=dtype)), -1)[:, 0]
        yield turn, vectors, r, flag, f"E {order}, B {batch}, d {d}, {dtype}, {layout}, {flag}"
        turn += 1


def assert_all_near(actual, expected, name, scale=4.0):
    """Relative to the largest finite number of each tensor."""
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert (a.shape, a.dtype) == (e.shape, e.dtype), f"{name}, output {i}"
        largest = max((e[e.isfinite()].abs().max().item() if e.isfinite().any() else 0), 1)
        atol = scale * largest * TOLERANCES[a.dtype]["atol"] if a.is_floating_point() else 0
        torch.testing.assert_close(
            a, e, rtol=0, atol=atol, equal_nan=True, msg=lambda m, i=i: f"{name}, output {i}: {m}"
        )


def untie(out, expected):
    """The choices, with those of ours that tie with the expected ones within rounding taken for the same."""
    a, e = expected[0].double(), expected[2]
    near = a.gather(1, out[2][:, None]) >= a.amax(1, keepdim=True) - 4 * torch.finfo(expected[0].dtype).eps
    return (*out[:2], torch.where(near.squeeze(1), e, out[2]), *out[3:]) if len(e) else out
