"""orbit_linear_scores: orbit_scores of a linear layer, values and gradients, and what it refuses."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from equifast import orbit_linear_scores, orbit_scores, reference

from ..backend import DEVICE, by_backend, needs, only, over
from ..cases import DTYPES, GROUPS, KINDS, assert_near, assert_same, rand
from ..definitions import call
from ..vectors import LAYOUTS, assert_all_near, orders, sweep, untie

pytestmark = needs("orbit_linear_scores")

SIMILARITIES = ["cosine", "dot"]


def inputs(group, batch, f, d, dtype=torch.float32, bias=True):
    weight = rand(d, f, dtype=dtype, seed=1) / f**0.5
    bias = rand(d, dtype=dtype, seed=2) if bias else None
    return rand(group.order * batch, f, dtype=dtype), weight, bias, rand(d, dtype=dtype, seed=3) / d**0.5


@orders
def test_every_order(order):
    """The raw op against the reference in a wide type."""
    for turn, features, _, cosine, name in sweep(order, 3):
        f, d = features.shape[1], (3, 16, 40, 150)[turn % 4]
        weight = LAYOUTS["transposed" if turn % 3 else "contiguous"](rand(d, f, dtype=features.dtype, seed=1) / f**0.5)
        bias = rand(2 * d, dtype=features.dtype, seed=2)[::2] if turn % 2 else None
        r = rand(d, dtype=features.dtype, seed=3)
        out = call("orbit_linear_scores", features, weight, bias, r, order, 1.7, cosine)
        args = (None if t is None else t.to(reference.accumulate_dtype(r.dtype)) for t in (features, weight, bias, r))
        options = {"group": f"C{order}", "beta": 1.7, "similarity": "cosine" if cosine else "dot"}
        wide = reference.orbit_linear_scores(*args, **options)
        expected = *(t.to(r.dtype) for t in wide[:2]), wide[2]
        assert_all_near(untie(out, expected), expected, name)


@pytest.mark.parametrize("order", [65, 100])
def test_large_groups(order):
    args = rand(order * 2, 9), rand(20, 9, seed=1), None, rand(20, seed=1)
    expected = reference.orbit_linear_scores(*args, group=f"C{order}", beta=1.7)
    assert_all_near(untie(call("orbit_linear_scores", *args, order, 1.7, True), expected), expected, "linear")


@only("cpu", "interpreter", "emulation", "gpu", because="the products of torch may round equal rows differently")
@pytest.mark.parametrize("cosine", [False, True])
def test_the_lowest_id_wins_a_tie(cosine):
    order = 5
    for first, dtype in enumerate((*DTYPES, torch.float32)):
        high = rand(6, dtype=dtype, seed=2)
        vectors = (-high).expand(order, 3, 6).clone()
        vectors[first:] = high
        args = vectors.flatten(0, 1), torch.eye(6, dtype=dtype), None, high, order, 1.0, cosine
        assert call("orbit_linear_scores", *args)[2].tolist() == [first] * 3


@only("interpreter", "gpu", because="the fallback rounds the vectors of the layer")
def test_the_reference_may_be_wider_than_the_features():
    features, weight, r = rand(4 * 3, 20).bfloat16(), rand(7, 20, seed=1).bfloat16(), rand(7, seed=2)
    out = call("orbit_linear_scores", features, weight, None, r, 4, 2.0, True)
    expected = reference.orbit_linear_scores(features.float(), weight.float(), None, r, group="C4", beta=2.0)
    for actual, wanted in zip(out, expected, strict=True):
        assert_near(actual, wanted)


@over(
    120,
    [
        (
            GROUPS[i],
            (0, 1, 17)[i % 3],
            (1, 16, 40)[i % 3],
            (1, 17)[i % 2],
            DTYPES[i % 4],
            -2.0,
            SIMILARITIES[i % 2],
            i < 9,
        )
        for i in (3, 7, 13)
    ],
    group=st.sampled_from(GROUPS),
    batch=st.sampled_from([0, 1, 2, 17]),
    f=st.sampled_from([1, 3, 16, 40]),
    d=st.sampled_from([1, 2, 17, 128]),
    dtype=st.sampled_from(DTYPES),
    beta=st.sampled_from([0.3, 1.0, -2.0]),
    similarity=st.sampled_from(SIMILARITIES),
    bias=st.booleans(),
)
def test_orbit_linear_scores_are_the_reference(group, batch, f, d, dtype, beta, similarity, bias):
    args = inputs(group, batch, f, d, dtype, bias)
    options = {"group": group, "beta": beta, "similarity": similarity}
    out, expected = orbit_linear_scores(*args, **options), reference.orbit_linear_scores(*args, **options)
    assert out.element.dtype == torch.int64 and out.element.shape == (batch,)
    for actual, same in zip(out[:2], expected[:2], strict=True):
        assert actual.dtype == dtype and actual.shape == same.shape
        assert_near(actual, same, scale=4)
    wide = [None if t is None else t.double() for t in args]
    exact = reference.orbit_linear_scores(*wide, **options).activations
    chosen = exact.gather(1, out.element[:, None]).squeeze(1)
    assert (chosen >= exact.amax(1) - 100 * torch.finfo(dtype).eps).all() if batch else True


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("group", by_backend(KINDS, KINDS[1:3]), ids=str)
def test_it_is_the_layer_and_then_the_scores(group, similarity):
    features, weight, bias, r = inputs(group, 5, 9, 11)
    options = {"group": group, "beta": 3.0, "similarity": similarity}
    out = orbit_linear_scores(features, weight, bias, r, **options)
    for actual, expected in zip(out, orbit_scores(F.linear(features, weight, bias), r, **options), strict=True):
        assert_near(actual, expected)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("bias", [False, True])
def test_gradcheck(bias, similarity):
    group = GROUPS[4]
    leaves = [t.requires_grad_() for t in inputs(group, 3, 5, 7, torch.float64, bias) if t is not None]

    def run(library, *given):
        x, w, b, r = given if bias else (*given[:2], None, given[2])
        return tuple(library(x, w, b, r, group=group, beta=1.7, similarity=similarity)[:2])

    fast = by_backend(False, True)  # a random projection of the Jacobian instead of all of its entries
    assert torch.autograd.gradcheck(lambda *given: run(orbit_linear_scores, *given), leaves, fast_mode=fast)
    grads = [rand(3, group.order, dtype=torch.float64, seed=i) for i in range(2)]
    ours, theirs = (
        torch.autograd.grad(run(f, *leaves), leaves, grads)
        for f in (orbit_linear_scores, reference.orbit_linear_scores)
    )
    for actual, expected in zip(ours, theirs, strict=True):
        assert_near(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_of_every_dtype(dtype):
    group = GROUPS[3]
    leaves = [t.requires_grad_() for t in inputs(group, 3, 8, 20, dtype)]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    for library, mine in ((orbit_linear_scores, leaves), (reference.orbit_linear_scores, wide)):
        out = library(*mine, group=group, beta=2.0)
        (out.activations[:, 0].sum() + out.probabilities.square().sum()).backward()
    for actual, expected in zip(leaves, wide, strict=True):
        assert actual.grad.dtype == dtype
        assert_near(actual.grad, expected.grad, scale=4)


def test_gradients_flow_where_they_are_asked_for():
    features, weight, bias, r = inputs(GROUPS[3], 2, 5, 6)
    out = orbit_linear_scores(features, weight.requires_grad_(), bias, r, group="C4")
    assert not out.element.requires_grad
    out.activations.sum().backward()
    assert weight.grad.abs().sum() > 0 and features.grad is None
    out = orbit_linear_scores(features, weight, bias, r, group="C4")
    (grad,) = torch.autograd.grad(out.probabilities[:, 0].sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward is not supported"):
        grad.sum().backward()


def test_no_samples():
    leaves = [t.requires_grad_() for t in inputs(GROUPS[7], 0, 5, 6)]
    out = orbit_linear_scores(*leaves, group="C8")
    assert out.activations.shape == out.probabilities.shape == (0, 8) and out.element.shape == (0,)
    (out.activations.sum() + out.probabilities.sum()).backward()
    for t in leaves:
        assert_same(t.grad, torch.zeros_like(t))


def test_any_layout():
    features, weight, bias, r = inputs(GROUPS[7], 5, 6, 4)
    expected = orbit_linear_scores(features, weight, bias, r, group="C8")
    for f in (lambda t: t.t().contiguous().t(), lambda t: torch.stack((t, -t), -1)[..., 0]):
        laid = orbit_linear_scores(f(features), f(weight), torch.stack((bias, bias), 1)[:, 0], r, group="C8")
        for actual, same in zip(laid, expected, strict=True):
            assert_near(actual, same)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": [1.0]}, TypeError, "features: expected a Tensor, got list"),
        ({"features": torch.zeros(8)}, ValueError, r"features: expected \(E·B, f\), got \(8,\)"),
        ({"features": torch.zeros(8, 3).long()}, TypeError, "features: .*int64"),
        ({"features": torch.zeros(9, 3)}, ValueError, "features: expected E·B rows with E = 4"),
        ({"weight": None}, TypeError, "weight: expected a Tensor"),
        ({"weight": torch.zeros(5, 4)}, ValueError, r"weight: expected \(d, 3\), got \(5, 4\)"),
        ({"weight": torch.zeros(5, 3).double()}, TypeError, "weight: .*float64"),
        ({"weight": torch.zeros(5, 3, device="meta")}, ValueError, "weight: expected the device"),
        ({"bias": 1.0}, TypeError, "bias: expected a Tensor"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias: expected \(5,\), got \(3,\)"),
        ({"reference": None}, TypeError, "reference: expected a Tensor"),
        ({"reference": torch.zeros(5, 1)}, ValueError, r"reference: expected \(5,\), got \(5, 1\)"),
        ({"reference": torch.zeros(5).half()}, TypeError, "reference: .*float16"),
        ({"similarity": "angle"}, ValueError, "similarity: expected one of cosine, dot"),
        ({"beta": torch.ones(())}, TypeError, "beta: expected a number"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_what_is_wrong_is_named(change, error, message):
    arguments = {"features": torch.zeros(8, 3), "weight": torch.zeros(5, 3), "bias": None, "reference": torch.zeros(5)}
    arguments |= {"group": "C4"} | change
    with pytest.raises(error, match=message):
        orbit_linear_scores(**arguments)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_sample_that_falls_back_changes_no_gradient_of_others(bad, similarity):
    """Nor one of the layer: features that are not finite count for nothing, whatever gradient comes from above."""
    features, *parameters = inputs(GROUPS[3], 4, 6, 5)
    others = torch.arange(4) != 2
    rest = features.unflatten(0, (4, 4))[:, others].flatten(0, 1)
    features[4 * 1 + 2, 3] = bad
    upstream = rand(2, 4, 4, seed=7)
    results = []
    for x, above in ((features, upstream), (rest, upstream[:, others])):
        leaves = [t.clone().requires_grad_() for t in (x, *parameters)]
        out = orbit_linear_scores(*leaves, group="C4", beta=1.5, similarity=similarity)
        above = above.masked_fill(out.probabilities.isnan(), math.nan)
        results.append((out, torch.autograd.grad(out[:2], leaves, tuple(above))))
    (out, (of_features, *of_parameters)), (_, (expected, *expected_of_parameters)) = results
    assert out.probabilities.isnan().all(1).tolist() == [False, False, True, False]
    of_features = of_features.unflatten(0, (4, 4))
    assert_near(of_features[:, others].flatten(0, 1), expected)
    assert not of_features[:, 2].any()
    for actual, same in zip(of_parameters, expected_of_parameters, strict=True):
        assert_near(actual, same)


def test_autocast_is_the_layer_and_then_the_scores_under_autocast():
    features, weight, bias, r = (t.requires_grad_() for t in inputs(GROUPS[3], 3, 6, 5))
    with torch.autocast(DEVICE.type, torch.bfloat16):
        out = orbit_linear_scores(features, weight, bias, r, group="C4")
        expected = orbit_scores(F.linear(features, weight, bias), r, group="C4")
    assert out.activations.dtype == out.probabilities.dtype == torch.float32
    for actual, same in zip(out, expected, strict=True):
        torch.testing.assert_close(actual, same, rtol=1e-2, atol=1e-2)
    out.activations[:, 0].sum().backward()
    assert all(t.grad.dtype == torch.float32 and t.grad.isfinite().all() for t in (features, weight, bias, r))


@only("cpu", "reference", "gpu", because="a compiler is held against one backend of a processor")
def test_compiles_whole():
    def step(*args):
        out = orbit_linear_scores(*args, group="D4", beta=2.0)
        return (out.probabilities * out.activations).sum()

    leaves = [t.requires_grad_() for t in inputs(GROUPS[7], 3, 6, 5)]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(step(*leaves), leaves)
    for actual, same in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        assert_near(actual, same)
