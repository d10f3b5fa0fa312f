"""angle_inner, the backward pass of the estimator `angle`, against its definition in eager PyTorch.

tests/test_estimators.py holds that definition against others.
"""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import equifast
from equifast.groups import as_group

from ..backend import by_backend, only
from ..cases import DTYPES, LARGE, LAYOUTS, PADDING_MODES, assert_near_overall, assert_same, every, ids, rand
from ..definitions import call, eager

SHAPES = by_backend(
    dict.fromkeys(PADDING_MODES, [(6, 6), (4, 7), (5, 1), (1, 6), (1, 1), (4, 6), (16, 16), (33, 33), (20, 47)]),
    dict.fromkeys(PADDING_MODES, [(6, 6), (4, 7), (5, 1), (1, 6)]),
    interpreter={"border": [(6, 6), (4, 7), (5, 1)], "zeros": [(5, 5), (7, 4), (1, 6)]},
)


def arguments(group, element, tensors, padding_mode="border"):
    group = as_group(group)
    return *tensors, element, list(group.action_table(inverse=True)), group.n, padding_mode


def check(*args, about=""):
    given = arguments(*args)
    (actual,), (expected,) = call("angle_inner", *given), eager("angle_inner", *given)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert_near_overall(actual, expected, scale=10, about=about)
    return actual


def three(*shape, dtype=torch.float32, lay_out=lambda t: t):
    """Images, what stands for their canonical ones, and for the gradient there."""
    return [lay_out(rand(*shape, dtype=dtype, seed=seed)) for seed in range(3)]


@pytest.mark.sanitized
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("group", ["C4", "C8", "D3", "D4"])
def test_every_element(group, padding_mode):
    """In float64, where a sample on the wrong side of a pixel would show."""
    element = every(group)
    for shape in SHAPES[padding_mode]:
        tensors = three(len(element), 1, *shape, dtype=torch.float64)
        check(group, element, tensors, padding_mode, about=f"{shape}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", ["D4", pytest.param("C8", marks=pytest.mark.sanitized)])
def test_every_dtype(group, dtype):
    check(group, ids(group, 3), three(3, 3, 9, 9, dtype=dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    element = torch.stack((ids("D3", 2, seed=1), ids("D3", 2)), 1)[:, 0]
    check("D3", element, three(2, 3, 5, 6, lay_out=LAYOUTS[layout]))


@pytest.mark.parametrize("turn", range(3))
def test_each_tensor_in_a_layout_of_its_own(turn):
    layouts = [LAYOUTS[name] for name in ("channels_last", "contiguous", "cropped")]
    tensors = [layouts[(i + turn) % 3](t) for i, t in enumerate(three(2, 5, 6, 6))]
    check("D4", torch.tensor([3, 5]), tensors)


@only("cpu", because="other backends sum in another order")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layout_changes_a_bit(layout):
    """With a task for each image, which gathers what is not in rows, and with too few images for that."""
    for i, group in enumerate(("C4", "C8", "D3")):
        for batch in (1, 4 * torch.get_num_threads()):
            tensors = three(batch, 5, 18, 18, dtype=DTYPES[(i + len(layout)) % 4], lay_out=LAYOUTS[layout])
            results = [
                call("angle_inner", *arguments(group, ids(group, batch), given))[0]
                for given in (tensors, [t.contiguous() for t in tensors], [tensors[0].contiguous(), *tensors[1:]])
            ]
            for other in results[1:]:
                assert_same(results[0], other)


def test_images_in_several_parts():
    check("D4", torch.tensor([5]), three(1, 1, 70, 70, dtype=torch.float64))


@pytest.mark.sanitized
@pytest.mark.parametrize("group", ["D4", "C8"])
def test_no_images(group):
    assert check(group, ids(group, 0), three(0, 3, 5, 5)).shape == (0, 2)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_flat_images_have_no_slope(padding_mode):
    """Exactly, within zeros as well as where the border is repeated."""
    flat = torch.full((8, 1, 7, 7), 0.3 if padding_mode == "border" else 0.0)
    actual = check("C8", every("C8"), (flat, flat, rand(8, 1, 7, 7)), padding_mode)
    assert torch.equal(actual, torch.zeros(8, 2))


def test_what_lies_beyond_an_image_is_not_read():
    x = torch.full((3, 1, 9, 9), torch.nan)
    x[:, :, 2:-2, 2:-2] = rand(3, 1, 5, 5)
    tensors = [x[:, :, 2:-2, 2:-2], *three(3, 1, 5, 5)[1:]]
    for padding_mode in PADDING_MODES:
        assert check("C8", torch.tensor([0, 1, 3]), tensors, padding_mode).isfinite().all()


@pytest.mark.parametrize("group", LARGE)
def test_groups_that_do_not_fit_into_arguments(group):
    check(group, ids(group, 3), three(3, 2, 5, 6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("group", "dtype"), [("C8", torch.float64), ("D4", torch.float32), ("D4", torch.bfloat16)], ids=str
)
def test_gradients_of_canonicalize(group, dtype, monkeypatch):
    """With respect to images and activations, by the backend and with the sums of the definition."""
    x, weights = rand(2, 1, 5, 5, dtype=dtype), rand(2, 1, 5, 5, dtype=dtype, seed=2)
    activations = rand(2, as_group(group).order, dtype=dtype, seed=1)
    leaves = [t.requires_grad_() for t in (x, activations)]

    def gradients():
        form = equifast.canonicalize(x, None, None, group=group, activations=activations, estimator="angle")
        return torch.autograd.grad((form.image * weights).sum(), leaves)

    ours = gradients()
    monkeypatch.setattr(torch.ops.equifast, "angle_inner", lambda *args: eager("angle_inner", *args)[0])
    for actual, expected in zip(ours, gradients(), strict=True):
        assert_near_overall(actual, expected, scale=10)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("name", ["C8", "D4"])
def test_it_can_be_differentiated_twice(name, padding_mode):
    """By all three tensors, although no kernel has a backward pass of its own."""
    leaves = [t.requires_grad_() for t in three(2, 1, 4, 4, dtype=torch.float64)]

    def sums(*tensors):
        return call("angle_inner", *arguments(name, ids(name, 2), tensors, padding_mode))[0]

    assert gradcheck(sums, leaves, fast_mode=True)
    assert gradgradcheck(sums, leaves, fast_mode=True)


def test_the_derivative_by_one_tensor_leaves_out_what_depends_on_it():
    x, _, grad = (t.requires_grad_() for t in three(2, 1, 4, 4, dtype=torch.float64))
    element = torch.tensor([1, 6])
    derivatives = []
    for image in (x * 2, (x * 2).detach()):
        (sums,) = call("angle_inner", *arguments("D4", element, (x, image, grad)))
        derivatives.append(torch.autograd.grad(sums[:, 0].sum(), (x, grad)))
    for one, other in zip(*derivatives, strict=True):
        assert_same(one, other)


@pytest.mark.sanitized
@pytest.mark.parametrize("group", ["D4", "C8"])
def test_it_does_not_depend_on_the_batch(group):
    batch, side = by_backend((9, 20), (3, 5))
    tensors, element = three(batch, 5, side, side), ids(group, batch)
    (together,) = call("angle_inner", *arguments(group, element, tensors))
    for b in (0, batch // 2, batch - 1):
        part = [t[b : b + 1] for t in tensors]
        assert_same(together[b : b + 1], call("angle_inner", *arguments(group, element[b : b + 1], part))[0])


@pytest.mark.parametrize("where", [0, 1, 2], ids=["x", "image", "grad"])
@pytest.mark.parametrize("group", ["D4", "C8"])
def test_a_nan_stays_in_its_image_and_its_sum(group, where):
    tensors = three(3, 2, 6, 6)
    tensors[where][1, 1, 2, 3] = torch.nan
    is_nan = call("angle_inner", *arguments(group, torch.tensor([1, 3, 2]), tensors))[0].isnan()
    assert is_nan.tolist() == [[False, False], [where != 1, where != 0], [False, False]]


@only("cpu", because="a kernel on a GPU can't raise, and the definition takes ids modulo the rotations")
@pytest.mark.parametrize("bad", [-1, 8])
def test_an_id_beyond_the_group_is_refused(bad):
    with pytest.raises(RuntimeError, match=f"element: expected ids in \\[0, 8\\), got {bad} at 1"):
        call("angle_inner", *arguments("D4", torch.tensor([0, bad]), three(2, 1, 4, 4)))
