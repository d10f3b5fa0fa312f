"""contrastive_loss: the definition, its limits, and wide sums."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equifast import reference
from equifast.ops import contrastive_loss

from .cases import DTYPES, GROUPS, assert_near, assert_same, rand


@given(
    group=st.sampled_from(GROUPS),
    batch=st.sampled_from([1, 2, 15, 16, 17, 40]),
    d=st.sampled_from([1, 2, 15, 16, 17, 33, 128]),
    dtype=st.sampled_from(DTYPES),
    normalize=st.booleans(),
)
@settings(max_examples=200)
def test_contrastive_loss_is_the_reference(group, batch, d, dtype, normalize):
    vectors = rand(group.order * batch, d, dtype=dtype)
    loss = contrastive_loss(vectors, group=group, normalize=normalize)
    assert loss.shape == () and loss.dtype == dtype
    assert_near(loss, reference.contrastive_loss(vectors, group=group, normalize=normalize))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("group", GROUPS, ids=str)
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
    vectors = torch.full((4 * 500, 1024), 1 / 32, dtype=dtype)
    assert_near(contrastive_loss(vectors, group="C4"), torch.tensor(0.75))
    assert_near(contrastive_loss(64 * vectors, group="C4", normalize=True), torch.tensor(0.75))


def test_any_layout():
    for dtype in DTYPES:
        vectors = rand(8 * 5, 6, dtype=dtype)
        expected = contrastive_loss(vectors, group="D4")
        assert_same(contrastive_loss(vectors.t().contiguous().t(), group="D4"), expected)
        assert_same(contrastive_loss(torch.stack((vectors, -vectors), -1)[..., 0], group="D4"), expected)


def test_the_batch_is_averaged():
    vectors = rand(8, 40, 19, dtype=torch.float64)
    each = [contrastive_loss(vectors[:, b], group="D4") for b in range(40)]
    assert_near(contrastive_loss(vectors.flatten(0, 1), group="D4"), torch.stack(each).mean())


def test_autocast_runs_in_float32():
    vectors = rand(4 * 3, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(vectors, group="C4")
    assert loss.dtype == torch.float32
    assert_same(loss, contrastive_loss(vectors.float(), group="C4"))
