"""Boxes, points and masks against the images they belong to."""

import pytest
import torch
import torch.nn.functional as F

from equifast import reference
from equifast.canonicalize import CanonicalForm
from equifast.groups import as_group
from equifast.targets import act_boxes, act_masks, act_points

SQUARE = [("C4", e) for e in range(4)] + [("D4", e) for e in range(8)]
#: Half turns and flips are exact on any image.
ANY = [("D2", e) for e in range(4)] + [("D4", e) for e in (0, 2, 4, 6)]
CASES = [(g, e, (9, 9)) for g, e in SQUARE] + [(g, e, (8, 8)) for g, e in SQUARE] + [(g, e, (6, 11)) for g, e in ANY]


def box_of(mask):
    """Edges of the pixels that are set, (x1, y1, x2, y2)."""
    rows, columns = mask.nonzero().unbind(1)
    return torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()


def a_mask(size):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[1:4, 2:6] = True
    mask[3:5, 4:5] = True
    return mask


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("group", "e", "size"), CASES)
def test_the_box_of_a_moved_mask_is_the_moved_box(group, e, size, inverse):
    mask, element = a_mask(size), torch.tensor([e])
    moved = act_masks(mask[None], element, group=group, inverse=inverse)[0]
    image = reference.act(mask[None, None].float(), element, group=group, inverse=inverse)[0, 0]
    assert torch.equal(moved, image.bool())
    box = act_boxes(box_of(mask)[None, None], element, group=group, size=size, inverse=inverse)
    assert torch.equal(box[0, 0], box_of(moved))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("group", "e", "size"), CASES)
def test_points_stay_on_their_pixels(group, e, size, inverse):
    image = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))
    element = torch.tensor([e])
    moved = reference.act(image, element, group=group, inverse=inverse)[0, 0]
    points = torch.tensor([[[0, 0], [size[1] - 1, 1], [3, 2]]])
    x, y = act_points(points, element, group=group, size=size, inverse=inverse)[0].long().unbind(1)
    before_x, before_y = points[0].unbind(1)
    assert torch.equal(moved[y, x], image[0, 0, before_y, before_x])


@pytest.mark.parametrize("group", ["C8", "D8", "D5"])
def test_points_follow_a_blob_at_any_angle(group):
    """The centre of mass of a smooth blob moves as its point does."""
    grid = torch.arange(41, dtype=torch.float64)
    blob = torch.exp(-((grid - 26) ** 2 + (grid[:, None] - 17) ** 2) / 8)[None, None]
    for e in range(as_group(group).order):
        element = torch.tensor([e])
        moved = reference.act(blob, element, group=group)[0, 0]
        centre = torch.stack(((moved.sum(0) * grid).sum(), (moved.sum(1) * grid).sum())) / moved.sum()
        point = act_points(torch.tensor([[[26.0, 17.0]]]), element, group=group, size=(41, 41))
        torch.testing.assert_close(point[0, 0].double(), centre, rtol=0, atol=5e-3)


def test_a_box_at_45_degrees_is_the_hull_of_all_corners():
    boxes = torch.tensor([[[3.0, 3.0, 5.0, 5.0], [0.0, 3.0, 2.0, 5.0]]])
    moved = act_boxes(boxes, torch.tensor([1]), group="C8", size=(8, 8))[0]
    half = 2**0.5
    torch.testing.assert_close(moved[0], torch.tensor([4 - half, 4 - half, 4 + half, 4 + half]))
    # 3 left of the centre turns, counter-clockwise as displayed, to the lower left.
    middle = (moved[1, :2] + moved[1, 2:]) / 2
    torch.testing.assert_close(middle, torch.tensor([4 - 3 / half, 4 + 3 / half]))


@pytest.mark.parametrize(("group", "size"), [("D4", (8, 8)), ("D2", (6, 11))])
def test_inverting_restores_everything_exactly(group, size):
    order = as_group(group).order
    generator = torch.Generator().manual_seed(1)
    element = torch.arange(order)
    corner = torch.randint(0, 5, (order, 3, 2), generator=generator).float()
    boxes = torch.cat((corner, corner + torch.randint(1, 4, (order, 3, 2), generator=generator)), 2)
    masks = torch.randint(0, 9, (order, 2, *size), generator=generator)
    form = CanonicalForm(torch.zeros(order, 3, *size), element, None, None, None, as_group(group))
    assert torch.equal(form.invert_boxes(form.transform_boxes(boxes)), boxes)
    assert torch.equal(form.invert_points(form.transform_points(corner)), corner)
    assert torch.equal(form.invert_masks(form.transform_masks(masks)), masks)
    assert torch.equal(form.invert_masks(form.transform_masks(masks.double())), masks.double())


def test_a_form_moves_targets_as_it_moved_the_image():
    form = CanonicalForm(torch.zeros(1, 1, 9, 9), torch.tensor([5]), None, None, None, as_group("D4"))
    mask = a_mask((9, 9))
    canonical = reference.act(mask[None, None].float(), form.element, group="D4", inverse=True)[0, 0].bool()
    assert torch.equal(form.transform_masks([mask[None]])[0][0], canonical)
    assert torch.equal(form.transform_boxes([box_of(mask)[None]])[0][0], box_of(canonical))


def test_lists_hold_as_many_targets_an_image_as_they_like():
    element = torch.tensor([1, 6, 3])
    generator = torch.Generator().manual_seed(2)
    counts = (2, 0, 3)
    boxes = [torch.rand(n, 4, generator=generator) * 8 for n in counts]
    masks = [torch.rand(n, 8, 8, generator=generator) > 0.5 for n in counts]
    points = [torch.rand(n, 2, generator=generator, dtype=torch.float64) * 8 for n in counts]
    for function, targets, size in ((act_boxes, boxes, (8, 8)), (act_points, points, (8, 8)), (act_masks, masks, None)):
        options = {"group": "D4", **({"size": size} if size else {})}
        kept = [t.clone() for t in targets]
        moved = function(targets, element, **options)
        assert isinstance(moved, list) and [t.shape for t in moved] == [t.shape for t in targets]
        assert all(torch.equal(a, b) for a, b in zip(targets, kept, strict=True))
        for i, one in enumerate(moved):
            assert one.dtype == targets[i].dtype
            assert torch.equal(one, function(targets[i][None], element[i : i + 1], **options)[0])
        assert function([], element[:0], **options) == []


@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
def test_labels_take_the_nearest_pixel_at_other_angles(padding_mode):
    labels = torch.randint(0, 9, (1, 1, 16, 16), generator=torch.Generator().manual_seed(3))
    c = 2**-0.5
    # g = R(45°) reads the source at g⁻¹.
    matrix = torch.tensor([[[c, -c, 0], [c, c, 0]]], dtype=torch.float64)
    grid = F.affine_grid(matrix, [1, 1, 16, 16], align_corners=True)
    expected = F.grid_sample(labels.double(), grid, mode="nearest", padding_mode=padding_mode, align_corners=True)
    moved = act_masks(labels, torch.tensor([1]), group="C8", padding_mode=padding_mode)
    assert torch.equal(moved, expected.long())


def test_types():
    element = torch.tensor([1])
    options = {"group": "C4", "size": (8, 8)}
    assert act_boxes(torch.zeros(1, 2, 4, dtype=torch.int32), element, **options).dtype == torch.float32
    assert act_boxes(torch.zeros(1, 2, 4, dtype=torch.float16), element, **options).dtype == torch.float16
    assert act_points(torch.zeros(1, 0, 2, dtype=torch.float64), element, **options).dtype == torch.float64
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float32):
        moved = act_masks(torch.ones(1, 2, 4, 4, dtype=dtype), element, group="C8", padding_mode="zeros")
        assert moved.dtype == dtype


def test_masks_of_floats_and_boxes_differentiate():
    element = torch.tensor([3, 1])
    boxes = (torch.rand(2, 3, 4, dtype=torch.float64) + torch.tensor([0, 0, 5, 5])).requires_grad_()
    masks = torch.rand(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: act_boxes(b, element, group="C8", size=(8, 8)), boxes, fast_mode=True)
    assert torch.autograd.gradcheck(lambda m: act_masks(m, element, group="C8"), masks, fast_mode=True)


SQUARE_8 = {"group": "C4", "size": (8, 8)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: act_boxes(torch.zeros(3, 2, 4), e, **SQUARE_8), r"boxes: expected \(2, N, 4\), got \(3, 2, 4\)"),
        (lambda e: act_boxes(torch.zeros(2, 4), e, **SQUARE_8), r"boxes: expected \(2, N, 4\), got \(2, 4\)"),
        (lambda e: act_points([torch.zeros(1, 2)], e, **SQUARE_8), "points: expected one tensor for each of 2"),
        (lambda e: act_points([torch.zeros(1, 2), torch.zeros(2)], e, **SQUARE_8), r"points\[1\]: expected \(N, 2\)"),
        (lambda e: act_masks(torch.zeros(8, 8), e, group="C4"), r"masks: expected \(2, H, W\) or \(2, N, H, W\)"),
        (lambda e: act_boxes(torch.zeros(2, 1, 4), e + 4, **SQUARE_8), r"element: expected ids in \[0, 4\), got 4"),
        (lambda e: act_masks(torch.zeros(2, 8, 8).long(), e - 1, group="C4"), r"element: .* got -1"),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, dtype=torch.int64))


def test_inverting_an_output_names_it():
    form = CanonicalForm(torch.zeros(2, 1, 8, 8), torch.tensor([1, 3]), None, None, None, as_group("C4"))
    wrong = [
        (None, {}, TypeError, "y: expected a Tensor, got NoneType"),
        (torch.zeros(2, 8, 8), {}, ValueError, r"y: expected \(B, C, H, W\), got \(2, 8, 8\)"),
        (torch.zeros(3, 1, 8, 8), {}, ValueError, "y: expected 2 images as in the form, got 3"),
        (torch.zeros(2, 0, 8, 8), {}, ValueError, "y: expected at least one channel"),
        (torch.zeros(2, 1, 8, 8).long(), {}, TypeError, "y: expected float64, .* got torch.int64"),
        (torch.zeros(2, 1, 8, 8, device="meta"), {}, ValueError, "y: expected the device of element"),
        (torch.zeros(2, 3, 8, 8), {"representation": "regular"}, ValueError, "y: expected channels divisible by E = 4"),
        (torch.zeros(2, 3, 8, 8), {"representation": "vector"}, ValueError, "y: expected an even number of channels"),
        (torch.zeros(2, 1, 8, 8), {"representation": "scalar"}, ValueError, "representation: expected one of"),
    ]
    for y, options, error, message in wrong:
        with pytest.raises(error, match="^" + message):
            form.invert(y, **options)
