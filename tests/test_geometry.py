"""csrc/geometry.h, as every kernel includes it, against the eager reference."""

import pytest
import torch

from equifast import as_group, geometry, reference
from equifast.backends import native

GROUPS = [f"{kind}{n}" for kind, last in (("C", 12), ("D", 8)) for n in range(1, last + 1)]
SIZES = [(6, 6), (7, 7), (5, 8), (1, 4), (4, 1), (1, 1)]


@pytest.fixture(scope="module")
def helper():
    module = native.helper()
    assert module is not None, "the helper module was not built"
    return module


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("name", GROUPS)
def test_factor(helper, name, square):
    for code, base in geometry.rows(as_group(name).action_table(inverse=True)):
        ours, matrix = helper.factor(code, base, square)
        assert (ours, tuple(matrix)) == geometry.factor(code, base, square=square)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("code", range(8))
def test_permutation(helper, code, size):
    if code % 2 and size[0] != size[1]:
        with pytest.raises(ValueError, match="square"):
            helper.permuted(code, *size)
        return
    plane = torch.arange(size[0] * size[1]).view(size)
    expected = reference.sample(plane, (code, geometry.IDENTITY))
    assert helper.permuted(code, *size) == expected.flatten().tolist()
    back = reference.sample(expected, (helper.inverse_code(code), geometry.IDENTITY))
    assert torch.equal(back, plane)


@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["C5", "C8", "D12"])
def test_taps(helper, name, size, padding_mode):
    """Where the reference reads and how much, corner by corner, bit for bit."""
    height, width = size
    like = torch.empty(0, dtype=torch.float64)
    for code, base in geometry.rows(as_group(name).action_table(inverse=True)):
        _, base = geometry.factor(code, base, square=height == width)
        if base == geometry.IDENTITY:
            continue
        ours = torch.tensor(helper.taps(base, height, width, padding_mode == "border"), dtype=torch.float64)
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
