"""contrastive_loss: the definition, its limits, and wide sums."""

import pytest
import torch
from hypothesis import strategies as st

from equifast import reference
from equifast.ops import contrastive_loss

from ..backend import DEVICE, by_backend, over
from ..cases import DTYPES, GROUPS, assert_near, assert_same_in_any_layout, assert_same_sum, rand
from ..definitions import call, eager
from ..vectors import assert_all_near, orders, sweep


@orders
def test_every_order_with_gradients(order):
    """The raw ops against their definitions."""
    for _, vectors, _, normalize, name in sweep(order, 1):
        expected = eager("contrastive_loss", vectors, order, normalize)
        assert_all_near(call("contrastive_loss", vectors, order, normalize), expected, name)
        # Of any Gram matrix: that of these vectors has signs which rounding decides.
        gram = rand(*expected[1].shape, dtype=expected[1].dtype, seed=2)
        args = rand(dtype=vectors.dtype, seed=3), vectors, gram, normalize
        assert_all_near(call("contrastive_loss_backward", *args), eager("contrastive_loss_backward", *args), name)


@pytest.mark.parametrize("order", [65, 100])
def test_large_groups(order):
    args = rand(order, 20), order, True
    loss, gram = eager("contrastive_loss", *args)
    assert_all_near(call("contrastive_loss", *args), (loss, gram), "loss")
    args = loss, args[0], gram, True
    assert_all_near(call("contrastive_loss_backward", *args), eager("contrastive_loss_backward", *args), "backward")


@over(
    200,
    [(GROUPS[i], (1, 2, 15)[i % 3], (1, 2, 15, 33)[i % 4], DTYPES[i % 4], i % 2 == 0) for i in (3, 6, 13)],
    group=st.sampled_from(GROUPS),
    batch=st.sampled_from([1, 2, 15, 16, 17, 40]),
    d=st.sampled_from([1, 2, 15, 16, 17, 33, 128]),
    dtype=st.sampled_from(DTYPES),
    normalize=st.booleans(),
)
def test_contrastive_loss_is_the_reference(group, batch, d, dtype, normalize):
    vectors = rand(group.order * batch, d, dtype=dtype)
    loss = contrastive_loss(vectors, group=group, normalize=normalize)
    assert loss.shape == () and loss.dtype == dtype
    assert_near(loss, reference.contrastive_loss(vectors, group=group, normalize=normalize))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("group", by_backend(GROUPS, GROUPS[4:6]), ids=str)
def test_limits(group, normalize):
    order = group.order
    apart = torch.eye(order).repeat_interleave(3, 0) * 2
    assert contrastive_loss(apart, group=group, normalize=normalize) == 0
    same = torch.ones(order * 3, 4)
    expected = (1 if normalize else 4) * (order - 1) / order
    assert_near(contrastive_loss(same, group=group, normalize=normalize), torch.tensor(expected))
    assert contrastive_loss(torch.zeros(order * 3, 4), group=group, normalize=normalize) == 0
    assert contrastive_loss(rand(0, 4), group=group, normalize=normalize).isnan()


def test_unit_vectors_can_not_be_shrunk_or_turned():
    vectors = rand(8 * 3, 6, dtype=torch.float64)
    loss = contrastive_loss(vectors, group="D4", normalize=True)
    assert_near(contrastive_loss(1e-3 * vectors, group="D4", normalize=True), loss)
    assert_near(contrastive_loss(-vectors, group="D4", normalize=True), loss)
    assert_near(contrastive_loss(1e-3 * vectors, group="D4"), 1e-6 * contrastive_loss(vectors, group="D4"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_vectors_are_summed_in_a_wide_type(dtype):
    vectors = torch.full((4 * by_backend(500, 20, interpreter=2), 1024), 1 / 32, dtype=dtype)
    assert_near(contrastive_loss(vectors, group="C4"), torch.tensor(0.75))
    assert_near(contrastive_loss(64 * vectors, group="C4", normalize=True), torch.tensor(0.75))


def test_any_layout():
    for dtype in DTYPES:
        vectors = rand(8 * 5, 6, dtype=dtype)
        expected = contrastive_loss(vectors, group="D4")
        for laid in (vectors.t().contiguous().t(), torch.stack((vectors, -vectors), -1)[..., 0]):
            assert_same_in_any_layout(contrastive_loss(laid, group="D4"), expected)


def test_the_batch_is_averaged():
    batch = by_backend(40, 40, interpreter=5)
    vectors = rand(8, batch, 19, dtype=torch.float64)
    each = [contrastive_loss(vectors[:, b], group="D4") for b in range(batch)]
    assert_near(contrastive_loss(vectors.flatten(0, 1), group="D4"), torch.stack(each).mean())


def test_autocast_runs_in_float32():
    vectors = rand(4 * 3, 6).bfloat16()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        loss = contrastive_loss(vectors, group="C4")
    assert loss.dtype == torch.float32
    assert_same_sum(loss, contrastive_loss(vectors.float(), group="C4"))


@pytest.mark.parametrize(("dtype", "normalize"), [(torch.float64, False), (torch.bfloat16, True)], ids=str)
def test_zero_vectors_are_those_of_the_definition(dtype, normalize):
    vectors = rand(4 * 2, 5, dtype=dtype)
    vectors[2:4] = 0
    loss, gram = eager("contrastive_loss", vectors, 4, normalize)
    assert_all_near(call("contrastive_loss", vectors, 4, normalize), (loss, gram), "loss")
    args = loss, vectors, gram, normalize
    assert_all_near(call("contrastive_loss_backward", *args), eager("contrastive_loss_backward", *args), "backward")


def test_many_blocks_of_a_kernel_and_vectors_of_no_length():
    args = rand(2 * by_backend(600, 600, emulation=100), 3, dtype=torch.float64), 2, True
    assert_all_near(call("contrastive_loss", *args), eager("contrastive_loss", *args), "many")
    assert_same_sum(call("contrastive_loss", torch.empty(6, 0), 3, True)[0], torch.zeros(()))
