"""Boxes, points and masks against the images they belong to."""

import pytest
import torch

from equifast import CanonicalForm, reference
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


def test_the_identity_changes_no_number():
    """Not the last bit, not infinity, not NaN; inverted boxes excepted, which come back upright."""
    numbers = torch.tensor([0.1, -1e30, 3e-30, 1e30, torch.inf, -torch.inf])
    pairs = torch.combinations(numbers, with_replacement=True)
    points = torch.cat((pairs, pairs.flip(1), pairs * torch.nan))[None]
    element = torch.tensor([0])
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        moved = act_points(points.to(dtype), element, group="D8", size=(7, 12))
        assert torch.equal(moved.nan_to_num(7.0), points.to(dtype).nan_to_num(7.0))
        low, high = pairs.to(dtype).amin(1), pairs.to(dtype).amax(1)
        boxes = torch.stack((low, low.roll(1), high, high.roll(1)), 1)[None]
        assert torch.equal(act_boxes(boxes, element, group="D8", size=(7, 12)), boxes)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("e", range(8))
def test_exact_elements_move_an_infinite_coordinate_and_no_other(e, inverse):
    """Infinity goes where a very large number goes."""
    options = {"group": "D4", "size": (8, 8), "inverse": inverse}
    element = torch.tensor([e])

    def moved(function, large, rows):
        return function(torch.tensor([rows(large)], dtype=torch.float64), element, **options)

    for function, rows in (
        (act_points, lambda n: [[n, 3], [2, -n], [-n, n]]),
        (act_boxes, lambda n: [[1, 2, n, 3], [-n, 2, 5, n], [-n, -n, n, n]]),
    ):
        expected = moved(function, 2.0**60, rows)
        expected = torch.where(expected.abs() > 2.0**50, expected * torch.inf, expected)
        assert torch.equal(moved(function, torch.inf, rows), expected)


@pytest.mark.parametrize("e", [1, 3, 5, 7])
def test_the_hull_of_an_unbounded_box_is_unbounded_at_45_degrees(e):
    """As the limit of larger and larger boxes, and never NaN."""
    options = {"group": "C8", "size": (8, 8)}
    inf = torch.inf
    for bounds in ([1, 2, inf, 3], [1, 2, inf, inf], [-inf, 2, inf, 3], [-inf, -inf, inf, inf], [-inf, 1, 2, inf]):
        box = torch.tensor([[bounds]], dtype=torch.float64)
        limit = act_boxes(box.nan_to_num(posinf=2.0**40, neginf=-(2.0**40)), torch.tensor([e]), **options)
        moved = act_boxes(box, torch.tensor([e]), **options)
        far = limit.abs() > 2.0**30
        assert torch.equal(moved[far], limit[far] * inf)
        torch.testing.assert_close(moved[~far], limit[~far])


def test_points_may_lie_in_any_number_of_dimensions():
    points = torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(4)) * 8
    element = torch.tensor([1, 6])
    options = {"group": "C8", "size": (8, 8)}
    moved = act_points(points, element, **options)
    assert torch.equal(moved, act_points(points.flatten(1, 2), element, **options).reshape(points.shape))
    assert torch.equal(torch.stack(act_points(list(points), element, **options)), moved)


def test_masks_of_floats_and_boxes_differentiate():
    element = torch.tensor([3, 1])
    boxes = (torch.rand(2, 3, 4, dtype=torch.float64) + torch.tensor([0, 0, 5, 5])).requires_grad_()
    masks = torch.rand(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: act_boxes(b, element, group="C8", size=(8, 8)), boxes, fast_mode=True)
    assert torch.autograd.gradcheck(lambda m: act_masks(m, element, group="C8"), masks, fast_mode=True)


@pytest.mark.parametrize("function", [act_boxes, act_points])
def test_no_dtype_but_numbers(function):
    element, width = torch.tensor([1]), 4 if function is act_boxes else 2
    with pytest.raises(TypeError, match=r"\[0\]: expected float64, .* got torch.complex64"):
        function([torch.zeros(1, width, dtype=torch.complex64)], element, group="C4", size=(8, 8))


@pytest.mark.parametrize("kind", ["boxes", "points", "labels", "masks"])
def test_compiles_into_one_graph(kind):
    torch._dynamo.reset()
    targets = {
        "boxes": torch.rand(4, 3, 4) * 8,
        "points": torch.rand(4, 3, 2) * 8,
        "labels": torch.randint(0, 9, (4, 8, 8)),
        "masks": torch.rand(4, 2, 8, 8),
    }[kind]
    method = "masks" if kind == "labels" else kind
    options = {"fill": 5} if method == "masks" else {}

    def both(element, targets):
        form = CanonicalForm(torch.zeros(4, 3, 8, 8), element, None, None, None, as_group("D8"))
        moved = getattr(form, f"transform_{method}")(targets, **options)
        return moved, getattr(form, f"invert_{method}")(moved, **options)

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    element = torch.tensor([1, 6, 3, 9])
    for given in (targets, [one.unsqueeze(0) if kind == "labels" else one for one in targets]):
        for actual, expected in zip(compiled(element, given), both(element, given), strict=True):
            torch.testing.assert_close(actual, expected)


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
