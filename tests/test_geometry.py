"""csrc/geometry.h, as every kernel includes it, against the eager reference."""

import ctypes

import pytest
import torch

from equifast import as_group, geometry, reference
from equifast.backends import helper

GROUPS = [f"{kind}{n}" for kind, last in (("C", 12), ("D", 8)) for n in range(1, last + 1)]
SIZES = [(6, 6), (7, 7), (5, 8), (1, 4), (4, 1), (1, 1)]


def factored(code, base, square):
    matrix = (ctypes.c_double * 4)(*base)
    return helper.library().equifast_factor(code, matrix, square), tuple(matrix)


def permuted(code, height, width):
    indices = torch.empty(height * width, dtype=torch.int64)
    helper.library().equifast_permuted(code, height, width, pointer(indices))
    return indices.tolist()


def taps(base, height, width, border):
    found = torch.empty(height * width, 6, dtype=torch.float64)
    helper.library().equifast_taps((ctypes.c_double * 4)(*base), height, width, border, pointer(found))
    return found


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("name", GROUPS)
def test_factor(name, square):
    for code, base in geometry.rows(as_group(name).action_table(inverse=True)):
        assert factored(code, base, square) == geometry.factor(code, base, square=square)


@pytest.mark.parametrize(
    ("code", "size"), [(c, s) for c in range(8) for s in SIZES if c % 2 == 0 or s[0] == s[1]], ids=str
)
def test_permutation(code, size):
    plane = torch.arange(size[0] * size[1]).view(size)
    expected = reference.sample(plane, (code, geometry.IDENTITY))
    assert permuted(code, *size) == expected.flatten().tolist()
    back = reference.sample(expected, (helper.library().equifast_inverse_code(code), geometry.IDENTITY))
    assert torch.equal(back, plane)


@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["C5", "C8", "D12"])
def test_taps(name, size, padding_mode):
    """Where the reference reads and how much, corner by corner, bit for bit."""
    height, width = size
    like = torch.empty(0, dtype=torch.float64)
    for code, base in geometry.rows(as_group(name).action_table(inverse=True)):
        _, base = geometry.factor(code, base, square=height == width)
        if base == geometry.IDENTITY:
            continue
        ours = taps(base, height, width, padding_mode == "border")
        x, near_x, far_x, y, near_y, far_y = ours.unbind(1)
        right, below = x.add(1).clamp(max=width - 1), y.add(1).clamp(max=height - 1)
        corners = (
            (y, x, near_y * near_x),
            (below, right, far_y * far_x),
            (y, right, near_y * far_x),
            (below, x, far_y * near_x),
        )
        theirs = reference._footprint(base, height, width, padding_mode, like)
        for (row, column, weight), (index, expected) in zip(corners, theirs, strict=True):
            assert torch.equal((row * width + column).long(), index)
            assert torch.equal(weight, expected)
