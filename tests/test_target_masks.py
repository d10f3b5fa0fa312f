"""Masks between pixels: the nearest one, its laws, and what lies beyond the edge."""

import pytest
import torch
import torch.nn.functional as F

from equifast import CanonicalForm, reference
from equifast.groups import as_group
from equifast.targets import act_masks

from .cases import exact_elements, rand

SIZES = [(1, 1), (2, 2), (7, 7), (8, 8), (33, 33), (6, 11), (7, 4)]
PADDINGS = [{"padding_mode": "border"}, {"fill": 0}, {"fill": 77}]
INTEGERS = [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64]


def labels_of(size, seed=0):
    return torch.randint(0, 120, (1, *size), generator=torch.Generator().manual_seed(seed))


def move(masks, e, group, **options):
    return act_masks(masks, torch.full((masks.shape[0],), e), group=group, **options)


def turned(labels, h, group):
    """By an exact element, without the function under test."""
    return reference.act(labels[None].double(), torch.tensor([h]), group=group)[0].long()


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("group", ["C4", "C8", "C12", "C16", "D3", "D8"])
def test_labels_of_a_turned_image_are_the_labels_turned(group, size, padding):
    """g·(h·m) = (g·h)·m for every g and every exact h, bit for bit: so canonical labels are invariant."""
    labels, group = labels_of(size), as_group(group)
    for h in exact_elements(group, size):
        moved = turned(labels, h, group)
        for g in range(group.order):
            assert torch.equal(move(moved, g, group, **padding), move(labels, group.compose(g, h), group, **padding))


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("group", ["C4", "C8", "C12", "C16", "D3", "D8"])
def test_turning_moved_labels_is_moving_them_further(group, size, padding):
    """h·(g·m) = (h·g)·m for every g and every exact turn h; for flips too, unless a middle line needs a choice."""
    labels, group = labels_of(size), as_group(group)
    for h in exact_elements(group, size):
        if group.split(h)[1] and 0 in (size[0] % 2, size[1] % 2):
            continue
        for g in range(group.order):
            expected = move(labels, group.compose(h, g), group, **padding)
            assert torch.equal(turned(move(labels, g, group, **padding), h, group), expected)


@pytest.mark.parametrize("group", ["C8", "C16"])
def test_canonical_labels_are_invariant_at_the_size_of_photographs(group):
    labels, group = labels_of((224, 224)), as_group(group)
    ids = torch.arange(group.order)
    every = act_masks(labels.expand(group.order, -1, -1), ids, group=group)
    for h in exact_elements(group, (224, 224)):
        moved = act_masks(turned(labels, h, group).expand(group.order, -1, -1), ids, group=group)
        assert torch.equal(moved, every[[group.compose(g, h) for g in range(group.order)]])


@pytest.mark.parametrize("group", ["C8", "D8", "C12", "D5"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_inverse_is_the_inverse_element(group, size):
    labels, group = labels_of(size), as_group(group)
    for g in range(group.order):
        assert torch.equal(move(labels, g, group, inverse=True), move(labels, group.inverse(g), group))


@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
@pytest.mark.parametrize("size", [(16, 16), (17, 17)], ids=str)
def test_labels_take_the_nearest_pixel_at_other_angles(padding_mode, size):
    """Compared with `grid_sample`, except where two pixels are equally near."""
    labels = labels_of(size)[None]
    c = 2**-0.5
    # g = R(45°) reads the source at g⁻¹.
    matrix = torch.tensor([[[c, -c, 0], [c, c, 0]]], dtype=torch.float64)
    grid = F.affine_grid(matrix, [1, 1, *size], align_corners=True)
    expected = F.grid_sample(labels.double(), grid, mode="nearest", padding_mode=padding_mode, align_corners=True)
    moved = move(labels, 1, "C8", padding_mode=padding_mode)
    position = (grid[0] + 1) / 2 * (size[0] - 1)
    tie = ((position - position.floor() - 0.5).abs() < 1e-9).any(-1)
    assert torch.equal(moved[..., ~tie], expected.long()[..., ~tie])
    assert tie.sum() <= 2 * size[0]


def test_ties_go_outwards():
    """C12 on a row of odd length reads at half of every offset: 1 at 0.5 → 1, 3 at 1.5 → 2, and so to the left."""
    row = torch.arange(-6, 7)
    square = row.expand(13, 13)[None]
    moved = move(square, 2, "C12", padding_mode="border")[0, 6]
    expected = torch.sign(row) * ((row.abs() + 1) // 2)
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("fill", [0, 3, 255])
@pytest.mark.parametrize("group", ["C8", "D3"])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)], ids=str)
def test_a_fill_is_a_mask_surrounded_by_it(group, size, fill):
    """Pad the mask with the value, move that, crop: the same labels exactly, and floats within rounding."""
    labels = labels_of(size)
    around = (4, 4, 4, 4)
    inner = (..., slice(4, -4), slice(4, -4))
    for e in range(as_group(group).order):
        for inverse in (False, True):
            options = {"group": group, "inverse": inverse}
            surrounded = move(F.pad(labels, around, value=fill), e, padding_mode="border", **options)[inner]
            assert torch.equal(move(labels, e, fill=fill, **options), surrounded)
            for dtype in (torch.float64, torch.float32, torch.bfloat16):
                floats = labels.to(dtype) / 8
                surrounded = move(F.pad(floats, around, value=fill), e, padding_mode="border", **options)[inner]
                torch.testing.assert_close(move(floats, e, fill=fill, **options), surrounded, atol=1e-4, rtol=1e-2)


def test_floats_inside_are_those_without_a_fill_to_the_last_bit():
    masks = rand(3, 2, 9, 9)
    for e in range(16):
        plain = move(masks, e, "D8", padding_mode="zeros")
        marked = move(masks, e, "D8", fill=torch.nan)
        inside = ~marked.isnan()
        assert inside[..., 2:-2, 2:-2].all() and torch.equal(marked[inside], plain[inside])
        assert inside.all() == (e % 2 == 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fill", [0, -3.5, torch.inf, torch.nan])
def test_exact_elements_permute_whatever_the_fill(dtype, fill):
    masks = rand(2, 3, 6, 6, dtype=dtype)
    for e in range(8):
        expected = reference.act(masks, torch.tensor([e, e]), group="D4")
        assert torch.equal(move(masks, e, "D4", fill=fill), expected)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_the_extreme_values_of_every_integer_type_survive(dtype):
    """Labels are looked up in a list of values before the move or after it."""
    values = torch.tensor([torch.iinfo(dtype).min, torch.iinfo(dtype).max, 0, 1], dtype=dtype)
    places = labels_of((6, 6)) % 4
    for e in range(8):
        for fill in (0, 1):
            moved = move(lookup(values, places), e, "C8", fill=values[fill].item())
            assert moved.dtype == dtype
            assert torch.equal(moved, lookup(values, move(places, e, "C8", fill=fill)))


def lookup(values, places):
    """``values[places]`` for types that torch does not index."""
    return torch.stack([values[i] for i in places.flatten().tolist()]).reshape(places.shape)


def test_memory_may_lie_in_any_way():
    masks = labels_of((3, 8, 8)).expand(2, -1, -1, -1)
    strided = masks.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    for dtype in (torch.uint8, torch.uint16, torch.float32):
        expected = move(masks.to(dtype), 1, "C8")
        assert torch.equal(move(strided.to(dtype), 1, "C8"), expected)
        repeated = masks.to(dtype)[:, :1].expand(2, 3, 8, 8)
        assert torch.equal(move(repeated, 1, "C8")[:, 2], expected[:, 0])


def test_a_form_gives_masks_a_padding_of_their_own():
    """The image repeats its edge; an object at the edge of its mask does not grow with it."""
    form = CanonicalForm(torch.zeros(1, 1, 8, 8), torch.tensor([1]), None, None, None, as_group("C8"), "border")
    everything = torch.ones(1, 1, 8, 8, dtype=torch.int64)
    for method, inverse in ((form.transform_masks, True), (form.invert_masks, False)):
        for options in ({}, {"fill": 255}, {"padding_mode": "zeros"}, {"padding_mode": "border"}):
            for given in (everything, everything.float(), [everything[0]]):
                expected = act_masks(given, form.element, group="C8", inverse=inverse, **options)
                assert torch.equal(method(given, **options)[0], expected[0])
        corners = [method(everything, fill=fill)[0, 0, 0, 0].item() for fill in (0, 255)]
        assert corners == [0, 255]
        assert method(everything, padding_mode="border").all()


@pytest.mark.parametrize(
    ("fill", "dtype"),
    [(256, torch.uint8), (-1, torch.uint16), (2, torch.bool), (0.5, torch.int64), (torch.nan, torch.int32)],
)
def test_a_fill_that_a_mask_cannot_hold_is_an_error(fill, dtype):
    good, wrong = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8, dtype=dtype)
    with pytest.raises(ValueError, match=rf"^fill: expected a value that masks\[1\] can hold as {dtype}, got {fill}"):
        act_masks([good, wrong], torch.tensor([0, 0]), group="C4", fill=fill)


def test_a_fill_needs_an_outside():
    masks, element = torch.zeros(1, 8, 8), torch.tensor([0])
    with pytest.raises(ValueError, match="^fill: expected 0 with padding_mode 'border'"):
        act_masks(masks, element, group="C4", padding_mode="border", fill=255)
    with pytest.raises(TypeError, match="^fill: expected a number, got str"):
        act_masks(masks, element, group="C4", fill="255")


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(0, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 8, 0)], ids=str)
def test_nothing_moves_to_nothing(shape, dtype):
    moved = move(torch.zeros(shape, dtype=dtype), 1, "C8", fill=3)
    assert moved.shape == shape and moved.dtype == dtype


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_labels_on_a_gpu_are_those_on_the_cpu():
    element = torch.arange(16)
    for dtype in (torch.bool, torch.uint8, torch.uint16, torch.int64):
        masks = labels_of((16, 3, 9, 9))[0].to(dtype)
        moved = act_masks(masks.cuda(), element.cuda(), group="D8", fill=1)
        assert torch.equal(moved.cpu(), act_masks(masks, element, group="D8", fill=1))
