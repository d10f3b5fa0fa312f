"""Targets in the classes of torchvision: they come back as they came, and move as torchvision moves them."""

import subprocess
import sys

import pytest
import torch

from equifast import CanonicalForm, TransformSet
from equifast.groups import as_group
from equifast.targets import act_boxes, act_masks, act_points

from ..cases import rand
from . import torchvision

SIZE = (8, 8)
UPRIGHT = ["XYXY", "XYWH", "CXCYWH"]
ROTATED = ["XYWHR", "CXCYWHR", "XYXYXYXY"]


@pytest.fixture
def tv():
    torchvision()
    from torchvision import tv_tensors

    return tv_tensors


@pytest.fixture
def functional():
    torchvision()
    from torchvision.transforms.v2 import functional

    return functional


def corners(dtype=torch.float32):
    return torch.tensor([[1, 2, 4, 7], [0, 0, 8, 8], [5, 3, 6, 4]], dtype=dtype)


def boxes_in(tv, functional, box_format, dtype=torch.float32):
    """Three boxes in that format; rotated ones at angles in every quadrant."""
    if box_format in UPRIGHT:
        made = tv.BoundingBoxes(corners(dtype), format="XYXY", canvas_size=SIZE)
        return functional.convert_bounding_box_format(made, new_format=tv.BoundingBoxFormat[box_format])
    data = [[4, 3, 3, 2, 30], [3, 5, 4, 1, -100], [4, 4, 2, 2, 170]]
    made = tv.BoundingBoxes(torch.tensor(data, dtype=dtype), format="CXCYWHR", canvas_size=SIZE)
    return functional.convert_bounding_box_format(made, new_format=tv.BoundingBoxFormat[box_format])


def move(function, one, e, group, **options):
    return function([one], torch.tensor([e]), group=group, **options)[0]


def assert_kept(moved, original):
    assert type(moved) is type(original) and vars(moved) == vars(original)


@pytest.mark.parametrize("box_format", UPRIGHT)
@pytest.mark.parametrize("inverse", [False, True])
def test_every_upright_format_is_the_hull_in_that_format(tv, functional, box_format, inverse):
    for e in range(16):
        boxes = boxes_in(tv, functional, box_format)
        moved = move(act_boxes, boxes, e, "D8", size=SIZE, inverse=inverse)
        assert_kept(moved, boxes)
        expected = move(act_boxes, corners(), e, "D8", size=SIZE, inverse=inverse)
        converted = functional.convert_bounding_box_format(moved, new_format=tv.BoundingBoxFormat.XYXY)
        torch.testing.assert_close(converted.as_subclass(torch.Tensor), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("box_format", UPRIGHT + ROTATED)
def test_quarter_turns_and_flips_are_those_of_torchvision(tv, functional, box_format):
    boxes = boxes_in(tv, functional, box_format, torch.float64)
    flipped = move(act_boxes, boxes, 1, "D1", size=SIZE)
    assert_kept(flipped, boxes)
    torch.testing.assert_close(flipped, functional.horizontal_flip(boxes))
    for quarters in range(4):
        turned = move(act_boxes, boxes, quarters, "C4", size=SIZE)
        expected = functional.rotate(boxes, 90.0 * quarters)
        torch.testing.assert_close(as_corners(turned, functional, tv), as_corners(expected, functional, tv))


def as_corners(boxes, functional, tv):
    to = "XYXYXYXY" if boxes.format.name in ROTATED else "XYXY"
    converted = functional.convert_bounding_box_format(boxes, new_format=tv.BoundingBoxFormat[to])
    return converted.as_subclass(torch.Tensor)


@pytest.mark.parametrize("box_format", ROTATED)
@pytest.mark.parametrize("inverse", [False, True])
def test_rotated_boxes_move_rigidly(tv, functional, box_format, inverse):
    """Their corners move as points between pixels do, and the first stays the top left of the box's own frame."""
    boxes = boxes_in(tv, functional, box_format, torch.float64)
    before = as_corners(boxes, functional, tv).reshape(3, 4, 2)
    for e in range(16):
        moved = move(act_boxes, boxes, e, "D8", size=SIZE, inverse=inverse)
        assert_kept(moved, boxes)
        options = {"group": "D8", "size": SIZE, "inverse": inverse}
        expected = act_points(before.reshape(1, 12, 2) - 0.5, torch.tensor([e]), **options).reshape(3, 4, 2) + 0.5
        order = [1, 0, 3, 2] if e >= 8 else [0, 1, 2, 3]
        torch.testing.assert_close(as_corners(moved, functional, tv).reshape(3, 4, 2), expected[:, order])
        if box_format != "XYXYXYXY":
            assert moved[:, 4].abs().max() <= 180 and torch.equal(moved[:, 2:4], boxes[:, 2:4])


@pytest.mark.parametrize("box_format", UPRIGHT)
def test_integers_become_floats_and_no_half_pixel_is_lost(tv, functional, box_format):
    whole = torch.tensor([[1, 2, 3, 5]])
    boxes = tv.BoundingBoxes(whole, format=box_format, canvas_size=SIZE)
    same = move(act_boxes, boxes, 0, "D4", size=SIZE)
    assert_kept(same, boxes)
    assert same.dtype == torch.float32 and torch.equal(same.as_subclass(torch.Tensor), whole.float())
    turned = move(act_boxes, boxes, 1, "D4", size=SIZE)
    back = move(act_boxes, turned, 1, "D4", size=SIZE, inverse=True)
    assert torch.equal(back.as_subclass(torch.Tensor), whole.float())


@pytest.mark.parametrize("box_format", UPRIGHT)
def test_infinite_extents_survive_the_identity_and_turns(tv, box_format):
    data = {"XYXY": [2, -torch.inf, torch.inf, 5], "XYWH": [2, 1, torch.inf, 5], "CXCYWH": [2, 1, torch.inf, torch.inf]}
    boxes = tv.BoundingBoxes(torch.tensor([data[box_format]]), format=box_format, canvas_size=SIZE)
    assert torch.equal(move(act_boxes, boxes, 0, "D8", size=SIZE), boxes)
    for e in (1, 2, 3):
        moved = move(act_boxes, boxes, e, "C8", size=SIZE)
        assert not moved.isnan().any() and moved.isinf().any()


def test_keypoints_of_any_shape_stay_keypoints(tv):
    for shape in ((5, 2), (3, 4, 2), (2, 3, 2, 2), (0, 2)):
        points = tv.KeyPoints(rand(*shape), canvas_size=SIZE)
        moved = move(act_points, points, 3, "C8", size=SIZE)
        assert_kept(moved, points)
        flat = act_points(points.as_subclass(torch.Tensor).reshape(1, -1, 2), torch.tensor([3]), group="C8", size=SIZE)
        assert torch.equal(moved.as_subclass(torch.Tensor), flat.reshape(shape))


def test_keypoints_flip_as_those_of_torchvision(tv, functional):
    """Both count from the centres of pixels. (The rotation of torchvision turns key points about another centre.)"""
    points = tv.KeyPoints(torch.tensor([[0.0, 0.0], [2.5, 6.0]]), canvas_size=(9, 8))
    assert torch.equal(move(act_points, points, 2, "D2", size=(9, 8)), functional.horizontal_flip(points))
    assert torch.equal(move(act_points, points, 3, "D2", size=(9, 8)), functional.vertical_flip(points))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32], ids=str)
def test_masks_stay_masks(tv, dtype):
    values = (rand(2, 3, *SIZE) * 5).abs().to(dtype)
    element = torch.tensor([1, 3])
    expected = act_masks(values, element, group="C8")
    batch = act_masks(tv.Mask(values), element, group="C8")
    entries = act_masks([tv.Mask(one) for one in values], element, group="C8")
    assert all(type(moved) is tv.Mask for moved in (batch, *entries))
    assert torch.equal(batch, expected) and torch.equal(torch.stack(entries), expected)


def test_a_list_may_mix_classes_and_formats(tv, functional):
    form = CanonicalForm(torch.zeros(4, 1, *SIZE), torch.arange(4), None, None, None, as_group("D4"))
    boxes = [boxes_in(tv, functional, "XYWH"), corners(), boxes_in(tv, functional, "CXCYWHR"), corners().double()]
    moved = form.transform_boxes(boxes)
    for i, (one, original) in enumerate(zip(moved, boxes, strict=True)):
        assert_kept(one, original)
        assert torch.equal(one, move(act_boxes, original, i, "D4", size=SIZE, inverse=True))


def test_torchvisions_global_return_type_changes_nothing(tv, functional):
    """Not even for a plain tensor that shares its list with others."""
    boxes, mask = boxes_in(tv, functional, "XYXY"), tv.Mask(torch.ones(1, *SIZE, dtype=torch.uint8))
    points = tv.KeyPoints(rand(2, 2), canvas_size=SIZE)
    calls = [(act_boxes, boxes, {"size": SIZE}), (act_masks, mask, {"fill": 255}), (act_points, points, {"size": SIZE})]
    element = torch.tensor([1, 3])
    for function, one, options in calls:
        entries = [one, one.as_subclass(torch.Tensor)]
        expected = function(entries, element, group="C8", **options)
        with tv.set_return_type("TVTensor"):
            moved = function(entries, element, group="C8", **options)
        assert_kept(moved[0], one)
        assert type(moved[1]) is torch.Tensor
        assert all(torch.equal(a, b) for a, b in zip(moved, expected, strict=True))


def test_a_canvas_of_another_size_is_an_error(tv):
    element, options = torch.tensor([0, 1]), {"group": "C4", "size": (8, 9)}
    plain, message = torch.zeros(1, 4), r"\[1\]: expected canvas_size \(8, 9\), the size of the images, got \(9, 8\)"
    wrong = tv.BoundingBoxes(plain, format="XYXY", canvas_size=(9, 8))
    with pytest.raises(ValueError, match="boxes" + message):
        act_boxes([plain, wrong], element, **options)
    with pytest.raises(ValueError, match="points" + message):
        act_points([plain[:, :2], tv.KeyPoints(plain[:, :2], canvas_size=(9, 8))], element, **options)


def test_torchvision_is_not_imported_for_plain_tensors():
    code = (
        "import sys, torch; from equifast.targets import act_boxes;"
        "class_ = type('Own', (torch.Tensor,), {});"
        "boxes = torch.zeros(1, 2, 4).as_subclass(class_);"
        "act_boxes(boxes, torch.tensor([1]), group='C4', size=(8, 8));"
        "assert not [name for name in sys.modules if name.startswith('torchvision')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rotated_boxes_need_maps_that_keep_right_angles(tv):
    """Under others of a set, they would be no boxes. Their sides grow as the image does."""
    transforms, size = TransformSet(angles=(0, 30), flips=True, scales=(1, 0.5)), (20, 30)
    element = torch.arange(transforms.order)
    rows = torch.tensor([9.0, 8.0, 4.0, 2.0, 25.0], dtype=torch.float64).expand(len(element), 1, 5)
    boxes = tv.BoundingBoxes(rows.flatten(0, 1), format="CXCYWHR", canvas_size=size)
    listed = [tv.wrap(boxes[i : i + 1], like=boxes) for i in range(len(element))]
    moved = torch.stack([b.as_subclass(torch.Tensor) for b in act_boxes(listed, element, group=transforms, size=size)])
    scale = torch.tensor([1.0] * 4 + [0.5] * 4, dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(moved[..., 2:4], rows[..., 2:4] * scale)
    # The direction of the first side, moved by the map.
    angle = rows[..., 4].deg2rad()
    side = torch.stack((angle.cos(), -angle.sin()), -1)
    maps = torch.tensor([transforms.matrix(e) for e in element.tolist()], dtype=torch.float64).unflatten(1, (2, 2))
    side = torch.einsum("eik,enk->eni", maps, side)
    mirrored = maps.det() < 0
    turned = moved[..., 4].deg2rad()
    expected = torch.stack((turned.cos(), -turned.sin()), -1) * scale
    torch.testing.assert_close(torch.where(mirrored[:, None, None], -side, side), expected)
    sheared = TransformSet(matrices=[[[1, 0.5], [0, 1]]])
    with pytest.raises(ValueError, match="boxes: a rotated box stays one .* map 1 of a TransformSet of 2 maps"):
        act_boxes(listed[:1], element[:1], group=sheared, size=size)
