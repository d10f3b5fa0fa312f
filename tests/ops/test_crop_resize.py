"""crop_resize: two matrices of triangles' weights, mirrored with the image, of any crop, size, dtype and layout."""

import functools
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

import equifast
from equifast import crop_resize, reference
from equifast.nn import CropResize

from ..backend import DEVICE, by_backend, needs, only, over
from ..cases import (
    DTYPES,
    LAYOUTS,
    amid_nan,
    assert_near,
    assert_near_overall,
    assert_same,
    assert_same_sum,
    layout_of_resampled,
    rand,
)
from ..definitions import call, eager

pytestmark = needs("crop_resize")

#: (H, W), crop, (h, w): smaller, larger, one of each, the same, one pixel, odd and even, more rows than a band has.
PROBLEMS = [
    ((20, 23), (2, 3, 16, 17), (5, 7)),
    ((9, 8), (0, 1, 9, 6), (21, 40)),
    ((70, 13), (3, 2, 66, 9), (19, 33)),
    ((13, 70), (2, 3, 9, 66), (50, 19)),
    ((17, 17), (0, 0, 17, 17), (17, 17)),
    ((40, 41), (7, 9, 17, 20), (17, 20)),
    ((1, 1), (0, 0, 1, 1), (1, 1)),
    ((5, 6), (4, 5, 1, 1), (3, 18)),
    ((33, 150), (0, 0, 33, 150), (1, 1)),
    ((9, 6), (1, 0, 7, 6), (4, 1)),
    ((9, 6), (1, 0, 7, 6), (1, 4)),
    ((224, 224), (22, 22, 180, 180), (96, 96)),
]


@functools.cache
def matrix(pixels: int, size: int) -> torch.Tensor:
    """(size, pixels): the weights of each output, in rational numbers until they are rounded."""
    scale = Fraction(pixels, size)
    support = max(scale, Fraction(1))
    rows = []
    for i in range(size):
        centre = (i + Fraction(1, 2)) * scale
        row = [max(1 - abs(j + Fraction(1, 2) - centre) / support, Fraction(0)) for j in range(pixels)]
        rows.append([float(weight / sum(row)) for weight in row])
    return torch.tensor(rows, dtype=torch.float64, device=DEVICE)


def defined(x, size, crop):
    """The two matrices on either side of each plane, in float64."""
    top, left, height, width = crop
    rows, columns = matrix(height, size[0]), matrix(width, size[1])
    return rows @ x.double()[:, :, top : top + height, left : left + width] @ columns.T


@st.composite
def drawn(draw):
    side = st.integers(1, 45)
    image, size = draw(st.tuples(side, side)), draw(st.tuples(side, side))
    lengths = [draw(st.integers(1, n)) for n in image]
    begins = [draw(st.integers(0, n - length)) for n, length in zip(image, lengths, strict=True)]
    return image, (*begins, *lengths), size


def test_the_reference_is_two_matrices():
    for image, crop, size in PROBLEMS:
        x = rand(2, 3, *image, dtype=torch.float64)
        assert_near(reference.crop_resize(x, size, crop=crop), defined(x, size, crop))


@over(
    250,
    [(problem, DTYPES[i % 4], list(LAYOUTS)[i % 5], 2, 3) for i, problem in enumerate(PROBLEMS)],
    problem=drawn(),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(list(LAYOUTS)),
    batch=st.integers(0, 3),
    channels=st.sampled_from([1, 3, 4, 5]),
)
def test_crop_resize_is_the_reference_in_a_wider_type(problem, dtype, layout, batch, channels):
    image, crop, size = problem
    x = LAYOUTS[layout](rand(batch, channels, *image, dtype=dtype))
    out = crop_resize(x, size, crop=crop)
    layout = torch.contiguous_format if DEVICE.type == "cpu" else layout_of_resampled(x)
    assert out.dtype == dtype and out.is_contiguous(memory_format=layout)
    assert_near(out, reference.crop_resize(x.double(), size, crop=crop))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_every_kind_of_resize(problem, dtype):
    image, crop, size = problem
    x = rand(2, 3, *image, dtype=dtype)
    assert_near(crop_resize(x, size, crop=crop), defined(x, size, crop))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_a_flip_of_the_crop_is_a_flip_of_the_output(problem, dtype):
    """To the last bit. A transpose exchanges the two sums, and so the roundings between them."""
    image, (top, left, height, width), size = problem
    x = rand(2, 3, *image, dtype=dtype)[:, :, top : top + height, left : left + width]
    out = crop_resize(x, size)
    for dims in ((2,), (3,), (2, 3)):
        assert_same_sum(crop_resize(x.flip(dims), size), out.flip(dims))
    assert_near(crop_resize(x.mT, size[::-1]).mT, out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_has_the_same_bits(layout, dtype):
    for image, crop, size in PROBLEMS[:4]:
        x = LAYOUTS[layout](rand(2, 3, *image, dtype=dtype))
        plain = x.clone(memory_format=torch.contiguous_format)
        assert_same_sum(crop_resize(x, size, crop=crop), crop_resize(plain, size, crop=crop))


def test_without_a_resize_it_is_the_crop():
    for dtype in DTYPES:
        x = rand(2, 3, 19, 20, dtype=dtype)
        assert_same(crop_resize(x, (7, 18), crop=(5, 1, 7, 18)), x[:, :, 5:12, 1:19])
        assert_same(crop_resize(x, (19, 20)), x)


def test_no_crop_is_the_whole_image_and_one_length_is_a_square():
    x = rand(2, 3, 19, 20)
    assert_same(crop_resize(x, 8), crop_resize(x, (8, 8), crop=(0, 0, 19, 20)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_outside_the_crop_is_read(dtype):
    for image, crop, size in PROBLEMS:
        top, left, height, width = crop
        x = torch.full((2, 3, *image), math.nan, dtype=dtype, device=DEVICE)
        x[:, :, top : top + height, left : left + width] = 0.5
        for laid_out in (x, amid_nan(x, 61), LAYOUTS["channels_last"](x)):
            assert_near(crop_resize(laid_out, size, crop=crop), torch.full((2, 3, *size), 0.5, device=DEVICE))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("problem", [((5, 6), (4, 4)), ((4, 3), (9, 3)), ((6, 6), (3, 6)), ((9, 9), (5, 4))], ids=str)
def test_what_is_not_finite_reaches_the_outputs_that_weigh_it(problem, value):
    """PyTorch also reads some pixels of weight 0."""
    (height, width), size = problem
    pixels = height * width
    x = torch.zeros(pixels, pixels, device=DEVICE).fill_diagonal_(value).view(pixels, 1, height, width)
    reached = torch.einsum("ih,jw->hwij", matrix(height, size[0]), matrix(width, size[1])).reshape(-1, 1, *size) > 0
    found = ~crop_resize(x, size).isfinite()
    assert found[reached].all()
    assert by_backend(not found[~reached].any(), True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_gradient_is_the_transpose(problem, dtype):
    """Whatever lies in memory as the gradient does; what is outside the crop gets 0."""
    image, crop, size = problem
    (top, left, height, width), y = crop, rand(2, 3, *size, dtype=dtype)
    rows, columns = matrix(height, size[0]), matrix(width, size[1])
    expected = torch.zeros(2, 3, *image, dtype=torch.float64, device=DEVICE)
    expected[:, :, top : top + height, left : left + width] = rows.T @ y.double() @ columns
    for layout in ("contiguous", "channels_last", "transposed", "cropped"):
        x = rand(2, 3, *image, dtype=dtype).requires_grad_()
        (grad,) = torch.autograd.grad(crop_resize(x, size, crop=crop), x, LAYOUTS[layout](y))
        assert grad.dtype == dtype
        assert_near_overall(grad, expected)


@pytest.mark.parametrize("problem", PROBLEMS[:6], ids=str)
def test_the_transpose_is_its_definition(problem):
    image, crop, size = problem
    for dtype in DTYPES:
        args = rand(2, 3, *size, dtype=dtype), list(image), list(crop)
        (ours,), (theirs,) = call("crop_resize_backward", *args), eager("crop_resize_backward", *args)
        assert ours.stride() == theirs.stride()
        assert_near_overall(ours, theirs)


def test_an_image_depends_on_no_other_image_or_channel():
    x = rand(3, 5, 40, 41)
    together = crop_resize(x, (17, 9), crop=(1, 2, 37, 36))
    for b in range(3):
        for c in range(5):
            alone = crop_resize(x[b : b + 1, c : c + 1], (17, 9), crop=(1, 2, 37, 36))
            assert_same(alone, together[b : b + 1, c : c + 1])


def test_no_images():
    x = rand(0, 3, 9, 8).requires_grad_()
    out = crop_resize(x, (4, 5), crop=(1, 1, 6, 6))
    out.sum().backward()
    assert out.shape == (0, 3, 4, 5) and x.grad.shape == x.shape


@only("cpu", because="it is about torch's own kernel for CPUs")
def test_it_is_torch_s_own_resize():
    """PyTorch computes its weights in the type of the pixels. It resizes rows wrongly if the output has one column."""
    for image, crop, size in PROBLEMS:
        if size[1] == 1 < size[0]:
            continue
        x = rand(2, 3, *image)
        top, left, height, width = crop
        view = x[:, :, top : top + height, left : left + width]
        assert_near(crop_resize(x, size, crop=crop), F.interpolate(view, size, mode="bilinear", antialias=True))


def test_the_module_is_this_op():
    x = rand(2, 3, 31, 32)
    assert_same(CropResize(0.8, 16)(x), crop_resize(x, 16, crop=(3, 3, 25, 26)))
    assert_same(CropResize(None, (9, 40))(x), crop_resize(x, (9, 40)))


@pytest.mark.parametrize(
    ("size", "crop", "error", "message"),
    [
        (0, None, ValueError, r"size: expected at least one row and column, got \(0, 0\)"),
        ((3, 4, 5), None, TypeError, r"size: expected \(H, W\), got \(3, 4, 5\)"),
        (2.5, None, TypeError, r"size: expected \(H, W\), got 2.5"),
        (4, (0, 0, 8, 9), ValueError, r"crop: expected \(top, left, height, width\) within 8×8, got \(0, 0, 8, 9\)"),
        (4, (-1, 0, 4, 4), ValueError, r"crop: .* got \(-1, 0, 4, 4\)"),
        (4, (2, 2, 0, 4), ValueError, r"crop: .* got \(2, 2, 0, 4\)"),
        (4, (7, 7, 2, 1), ValueError, r"crop: .* got \(7, 7, 2, 1\)"),
        (4, (0, 0, 4), TypeError, r"crop: .* got \(0, 0, 4\)"),
        (4, 0.8, TypeError, r"crop: .* got 0.8"),
    ],
)
def test_what_is_wrong_is_named(size, crop, error, message):
    with pytest.raises(error, match=message):
        equifast.crop_resize(rand(1, 3, 8, 8), size, crop=crop)


@only("cpu", because="it is about the native library's own checks")
def test_the_native_library_checks_what_it_gets():
    x = rand(1, 3, 8, 8)
    for crop in ([0, 0, 8, 9], [-1, 0, 4, 4], [2, 2, 0, 4], [2**62, 0, 2**62, 1]):
        with pytest.raises(RuntimeError, match="crop: expected"):
            torch.ops.equifast.crop_resize(x, crop, [4, 4])
        with pytest.raises(RuntimeError, match="crop: expected"):
            torch.ops.equifast.crop_resize_backward(x, [8, 8], crop)
    with pytest.raises(RuntimeError, match="size: expected"):
        torch.ops.equifast.crop_resize(x, [0, 0, 8, 8], [4, 0])
