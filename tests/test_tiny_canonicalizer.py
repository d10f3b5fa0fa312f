"""TinyCanonicalizer: against its definition in eager PyTorch, and as a module."""

import pytest
import torch
import torch.nn.functional as F

from equifast import reference
from equifast.canonicalize import canonicalize
from equifast.nn import Canonicalizer, PooledOrbitConv2d, TinyCanonicalizer

from .cases import DTYPES, LAYOUTS, assert_near, assert_near_overall, assert_same, rand

GROUPS = ["C1", "C4", "C5", "C8", "D1", "D3", "D4"]
OPTIONS = [
    {},
    {"kernel_size": 3, "stride": 1, "padding": "same", "activation": "relu", "similarity": "dot"},
    {"kernel_size": (3, 5), "stride": (1, 2), "padding": (1, 0), "dilation": 2, "activation": "silu", "bias": False},
    {"kernel_size": 4, "stride": 4, "activation": "none", "padding_mode": "zeros", "beta": 3.0},
]


def make(group, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return TinyCanonicalizer(3, group, **{"channels": 6, **options}).to(dtype)


def scores(model, x):
    """What it is made of: orbit, convolution, activation, mean, similarity and softmax."""
    layer = model.network
    sizes = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    call = {"group": model.group, "padding_mode": model.padding_mode, **sizes}
    y = reference.orbit_conv2d(x, layer.weight, layer.bias, **call)
    y = y if layer.activation == "none" else getattr(F, layer.activation)(y)
    vectors = y.mean((2, 3))
    chosen = {"group": model.group, "beta": model.beta, "similarity": model.similarity}
    return vectors, reference.orbit_scores(vectors, model.reference, **chosen)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_values_and_all_gradients_are_those_of_its_parts(group, options):
    model, x = make(group, **options), rand(3, 3, 16, 16, dtype=torch.float64).requires_grad_()
    form, (vectors, expected) = model(x), scores(model, x)
    assert_near(form.activations, expected.activations)
    assert_near(form.probabilities, expected.probabilities)
    assert_same(form.element, expected.element)
    assert_near(form.vectors, vectors.unflatten(0, (-1, 3)).transpose(0, 1))
    assert_same(
        form.image, reference.act(x, expected.element, group=group, inverse=True, padding_mode=form.padding_mode)
    )
    leaves = [x, *model.parameters()]
    assert len(leaves) == 3 + (model.network.bias is not None)
    upstream = [rand(*expected.activations.shape, dtype=x.dtype, seed=seed) for seed in (1, 2)]
    ours = torch.autograd.grad([form.activations, form.probabilities], leaves, upstream)
    theirs = torch.autograd.grad(expected[:2], leaves, upstream)
    for actual, like in zip(ours, theirs, strict=True):
        assert_near_overall(actual, like)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_any_dtype_and_layout(dtype, layout):
    model, x = make("C8", dtype), LAYOUTS[layout](rand(2, 3, 16, 16, dtype=dtype))
    _, expected = scores(model.double(), x.double())
    form = model.to(dtype)(x)
    assert form.activations.dtype == dtype
    assert_near(form.activations, expected.activations, scale=8)


@pytest.mark.parametrize("estimator", ["straight_through", "angle", "soft", "gumbel", "none"])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_a_canonicalizer_of_its_layer(estimator, training):
    model, x = make("D4", torch.float32, estimator=estimator).train(training), rand(3, 3, 16, 16)
    like = Canonicalizer(model.network, "D4", reference=model.reference, estimator=estimator)
    torch.manual_seed(1)
    form = model(x)
    torch.manual_seed(1)
    expected = like.train(training)(x)
    assert_same(form.image, expected.image)
    assert_same(form.probabilities, expected.probabilities)


@pytest.mark.parametrize("group", ["C4", "D4"])
@torch.no_grad()
def test_the_canonical_image_is_the_same_for_every_quarter_turn(group):
    model, x = make(group, torch.float32).eval(), rand(4, 3, 17, 17)
    image = model(x).image
    for quarters in range(4):
        assert_same(model(x.rot90(quarters, (2, 3))).image, image)


@pytest.mark.parametrize("training", [True, False])
def test_it_compiles_to_one_graph(training):
    torch._dynamo.reset()
    model, x = make("C4").train(training), rand(3, 3, 16, 16, dtype=torch.float64).requires_grad_()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    leaves = [x, *model.parameters()]
    results = []
    for run in (model, compiled):
        form = run(x)
        loss = form.image.square().mean() + form.prior_loss() + form.contrastive_loss()
        results.append((form.activations.detach(), *torch.autograd.grad(loss, leaves)))
    for eager, other in zip(*results, strict=True):
        assert_near(other, eager)


def test_a_preprocess_and_a_batch_of_none():
    model = make("C4", torch.float32, preprocess=lambda x: F.interpolate(x, (16, 16)))
    form = model(rand(2, 3, 40, 30))
    assert form.image.shape == (2, 3, 40, 30) and form.vectors.shape == (2, 4, 6)
    assert model(rand(0, 3, 40, 30)).image.shape == (0, 3, 40, 30)


def test_training_it_learns_to_prefer_one_element():
    torch.manual_seed(0)
    model, x = TinyCanonicalizer(3, "C4", channels=8, kernel_size=3), torch.rand(16, 3, 12, 12).cumsum(3)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    losses = []
    for _ in range(30):
        loss = model(x).prior_loss(beta=10.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_its_state_is_that_of_one_layer_and_a_reference():
    model = TinyCanonicalizer(3, "C4", channels=8, kernel_size=5)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == {"reference": (8,), "network.weight": (8, 3, 5, 5), "network.bias": (8,)}
    other = TinyCanonicalizer(3, "C4", channels=8, kernel_size=5)
    other.load_state_dict(model.state_dict())
    x = rand(2, 3, 16, 16)
    assert_same(other(x).activations, model(x).activations)
    fixed = TinyCanonicalizer(3, "C4", channels=8, reference=torch.ones(8), learn_reference=False)
    assert [name for name, _ in fixed.named_parameters()] == ["network.weight", "network.bias"]
    assert_same(fixed.reference, torch.ones(8))


def test_its_layer_stands_alone():
    layer = PooledOrbitConv2d(3, 8, 3, "D3", activation="relu", padding=1)
    x = rand(2, 3, 9, 9)
    out = layer(x)
    expected = reference.orbit_conv2d_pool(x, layer.weight, layer.bias, group="D3", padding=1)
    assert_near(out, expected)
    form = canonicalize(x, layer, torch.ones(8), group="D3")
    assert form.vectors.shape == (2, 6, 8)
    with pytest.raises(ValueError, match="network: makes the orbit of D3 with border padding, called for C4"):
        canonicalize(x, layer, torch.ones(8), group="C4")


def test_repr():
    text = repr(TinyCanonicalizer(3, "C4"))
    assert "TinyCanonicalizer(\n  C4, beta=1.0, similarity=cosine, estimator=straight_through" in text
    assert "PooledOrbitConv2d(C4, weight 64 × 3 × 7 × 7" in text and "activation=gelu, padding_mode=border" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "tanh"}, "activation: .*tanh"),
        ({"padding_mode": "reflect"}, "padding_mode: .*reflect"),
        ({"estimator": "hard"}, "estimator: .*hard"),
        ({"reference": torch.ones(5)}, r"reference: expected \(64,\)"),
        ({"group": "C0"}, "group: expected"),
    ],
)
def test_what_is_wrong_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        TinyCanonicalizer(3, **{"group": "C4", **options})
