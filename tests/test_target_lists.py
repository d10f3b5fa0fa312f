"""Lists of targets: every entry is checked and moved by itself, and what is wrong with one is said of that one."""

import numpy
import pytest
import torch

from equifast.targets import act_boxes, act_masks, act_points

SIZED = {"group": "C8", "size": (8, 8)}
OPTIONS = {act_boxes: SIZED, act_points: SIZED, act_masks: {"group": "C8"}}
TAIL = {act_boxes: (4,), act_points: (2,), act_masks: (8, 8)}
NAME = {act_boxes: "boxes", act_points: "points", act_masks: "masks"}

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES = [*FLOATS, *INTEGERS, torch.bool]

every_function = pytest.mark.parametrize("function", list(TAIL), ids=NAME.values())


def some(function, count, dtype, seed=0):
    values = torch.randint(0, 120, (count, *TAIL[function]), generator=torch.Generator().manual_seed(seed))
    return (values > 60 if dtype == torch.bool else values).to(dtype)


@every_function
@pytest.mark.parametrize("counts", [(2,), (0,), (3, 0, 2)], ids=str)
def test_an_entry_moves_as_it_would_alone(function, counts):
    """Every pair of dtypes, and every number of targets beside none: no entry sees another."""
    entries = [some(function, n, dtype, i) for i, dtype in enumerate(DTYPES) for n in counts]
    element = torch.arange(len(entries)) % 8
    kept = [entry.clone() for entry in entries]
    moved = function(entries, element, **OPTIONS[function])
    assert isinstance(moved, list)
    for i, (one, entry, before) in enumerate(zip(moved, entries, kept, strict=True)):
        assert torch.equal(entry, before), "changed in place"
        alone = function([entry], element[i : i + 1], **OPTIONS[function])[0]
        batch = function(entry[None], element[i : i + 1], **OPTIONS[function])[0]
        wanted = torch.float32 if function is not act_masks and not entry.is_floating_point() else entry.dtype
        assert one.dtype == alone.dtype == batch.dtype == wanted
        assert one.shape == entry.shape and torch.equal(one, alone) and torch.equal(one, batch)


@every_function
def test_tuples_are_lists_and_nothing_makes_nothing(function):
    entries = some(function, 1, torch.float32), some(function, 2, torch.float64)
    element = torch.tensor([1, 2])
    moved = function(entries, element, **OPTIONS[function])
    assert isinstance(moved, list) and [t.dtype for t in moved] == [torch.float32, torch.float64]
    assert function([], element[:0], **OPTIONS[function]) == []


@every_function
def test_gradients_reach_every_entry(function):
    entries = [some(function, n, torch.float64, n).requires_grad_() for n in (2, 0, 1)]
    moved = function(entries, torch.tensor([0, 2, 6]), **OPTIONS[function])
    sum(one.sum() for one in moved).backward()
    assert [entry.grad.shape for entry in entries] == [entry.shape for entry in entries]
    assert all(entry.grad.any() for entry in entries if entry.numel())


def wrong_entries(function):
    good, tail = some(function, 2, torch.float32), TAIL[function]
    yield None, TypeError, "expected a Tensor, got NoneType"
    yield good.numpy(), TypeError, "expected a Tensor, got ndarray"
    yield [good], TypeError, "expected a Tensor, got list"
    yield 3.0, TypeError, "expected a Tensor, got float"
    yield good[0][0], ValueError, r"expected \(N, "
    yield good[..., :-1], ValueError, "expected "
    yield good.to("meta"), ValueError, "expected the device of element, cpu, got meta"
    yield torch.zeros(2, *tail, dtype=torch.complex64), TypeError, "expected .* got torch.complex64"
    yield torch.zeros(2, *tail).to(torch.float8_e5m2), TypeError, "expected .* got torch.float8_e5m2"


@every_function
def test_the_wrong_entry_is_named(function):
    good, element = some(function, 2, torch.float32), torch.tensor([1, 2, 3])
    for wrong, error, message in wrong_entries(function):
        for index in (1, 2):
            entries = [good, good, good]
            entries[index] = wrong
            with pytest.raises(error, match=rf"^{NAME[function]}\[{index}\]: {message}"):
                function(entries, element, **OPTIONS[function])


@every_function
@pytest.mark.parametrize(
    "wrong", [None, 3, "boxes", {"boxes": torch.zeros(1, 4)}, numpy.zeros((3, 2, 4)), iter([])], ids=lambda w: type(w)
)
def test_what_is_no_list_is_named(function, wrong):
    message = f"^{NAME[function]}: expected a Tensor or a list of one Tensor for each image, got {type(wrong).__name__}"
    with pytest.raises(TypeError, match=message):
        function(wrong, torch.tensor([1, 2, 3]), **OPTIONS[function])


@every_function
def test_a_list_of_another_length_is_an_error(function):
    for count in (0, 2, 4):
        message = f"^{NAME[function]}: expected one tensor for each of 3 images, got {count}"
        with pytest.raises(ValueError, match=message):
            function([some(function, 1, torch.float32)] * count, torch.tensor([1, 2, 3]), **OPTIONS[function])


def test_masks_of_several_sizes_are_an_error():
    masks = [torch.zeros(1, 8, 8), torch.zeros(2, 8, 8), torch.zeros(0, 8, 9)]
    with pytest.raises(ValueError, match=r"^masks\[2\]: expected the size of masks\[0\], \(8, 8\), got \(8, 9\)"):
        act_masks(masks, torch.tensor([0, 0, 0]), group="C4")


@pytest.mark.parametrize("function", [act_boxes, act_points], ids=["boxes", "points"])
@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (8, TypeError, r"expected \(H, W\), got 8"),
        (None, TypeError, r"expected \(H, W\), got None"),
        ((8, 8, 3), TypeError, r"expected \(H, W\), got \(8, 8, 3\)"),
        ((8.0, 8), TypeError, r"expected two ints \(H, W\), got \(8.0, 8\)"),
        ((0, 8), ValueError, r"expected at least one row and column, got \(0, 8\)"),
    ],
)
def test_the_size_is_checked(function, size, error, message):
    for targets in (some(function, 2, torch.float32)[None], [some(function, 2, torch.float32)]):
        with pytest.raises(error, match=f"^size: {message}"):
            function(targets, torch.tensor([1]), group="C4", size=size)


SQUARE_8 = {"group": "C4", "size": (8, 8)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: act_boxes(torch.zeros(3, 2, 4), e, **SQUARE_8), r"boxes: expected \(2, N, 4\), got \(3, 2, 4\)"),
        (lambda e: act_boxes(torch.zeros(2, 4), e, **SQUARE_8), r"boxes: expected \(2, N, 4\), got \(2, 4\)"),
        (lambda e: act_boxes(torch.zeros(2, 3, 1, 4), e, **SQUARE_8), r"boxes: expected \(2, N, 4\), got"),
        (lambda e: act_points(torch.zeros(2, 3), e, **SQUARE_8), r"points: expected \(2, N, 2\) or \(2, N, …, 2\)"),
        (lambda e: act_points(torch.zeros(3, 1, 2), e, **SQUARE_8), r"points: expected \(2, N, 2\)"),
        (lambda e: act_masks(torch.zeros(8, 8), e, group="C4"), r"masks: expected \(2, H, W\) or \(2, N, H, W\)"),
        (lambda e: act_boxes(torch.zeros(2, 1, 4), e + 4, **SQUARE_8), r"element: expected ids in \[0, 4\), got 4"),
        (lambda e: act_masks(torch.zeros(2, 8, 8).long(), e - 1, group="C4"), r"element: .* got -1"),
    ],
)
def test_what_is_wrong_with_a_batch_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, dtype=torch.int64))
