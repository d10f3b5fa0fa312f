"""`network_dtype`: the network runs under autocast to a narrow type; all else stays as wide as it is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equifast import act, as_group, canonicalize, orbit_vectors, reference
from equifast.nn import Canonicalizer, ConvNetwork, TinyCanonicalizer, fuse_first_layer

from .cases import assert_near, assert_same, exact_elements, ids, rand
from .networks import build

NARROW = [torch.bfloat16, torch.float16]
#: How far vectors may be from those of the network in float32, over the largest of them.
ROUNDING = {torch.bfloat16: 0.03, torch.float16: 0.004}
NETWORKS = ["ConvNetwork", "ResNet", "ViT", "normalizes"]


def images(batch=6, side=32):
    return rand(batch, 3, side, side, seed=3)


def canonicalizer(name="ConvNetwork", group="C4", dtype=torch.bfloat16, **options):
    torch.manual_seed(0)
    if name == "TinyCanonicalizer":
        return TinyCanonicalizer(3, group, channels=10, network_dtype=dtype, **options).eval()
    network = build(name).eval()
    if name == "fused":
        network = fuse_first_layer(build("ResNet").eval(), group)
    return Canonicalizer(network, group, vector_size=10, network_dtype=dtype, **options).eval()


def in_float32(module):
    twin = copy.deepcopy(module)
    twin.network_dtype = None
    return twin


def assert_rounded(actual, wide, dtype):
    torch.testing.assert_close(actual, wide, rtol=0, atol=ROUNDING[dtype] * wide.abs().max().item())


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("name", [*NETWORKS, "TinyCanonicalizer"])
def test_vectors_are_those_of_float32_up_to_rounding(name, dtype):
    for group in ("C4", "D3"):
        module = canonicalizer(name, group, dtype)
        with torch.no_grad():
            form, wide = module(images()), in_float32(module)(images())
        assert_rounded(form.vectors, wide.vectors, dtype)
        assert not torch.equal(form.vectors, wide.vectors), "nothing ran in a narrow type"


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_autocast_of_the_network_on_the_orbit(name):
    module, x = canonicalizer(name), images()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = module.network(reference.orbit(x, "C4")).float().unflatten(0, (4, -1)).transpose(0, 1)
    with torch.no_grad():
        assert_rounded(module(x).vectors, expected, torch.bfloat16)


def landscapes(count, side=32, seed=0):
    """Pictures (count, 3, side, side) with an upright orientation, drawn at random: a bright sky over dark ground, and
    ellipses and bars in front of them, in light from the left. They have edges and plain areas, as photographs have.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high, channels=1):
        return low + (high - low) * torch.rand(count, channels, 1, 1, generator=generator)

    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    ground = ((rows - uniform(-0.4, 0.4) - uniform(-0.3, 0.3) * columns) * 8).clamp(0, 1)
    image = uniform(0.4, 1, 3) * (1 - ground) + uniform(0, 0.6, 3) * ground
    for shape in range(4):
        y, x, angle = rows - uniform(-0.7, 0.7), columns - uniform(-0.7, 0.7), uniform(0, 3.2)
        along, across = (angle.cos() * x + angle.sin() * y) * 3, (angle.cos() * y - angle.sin() * x) * 6
        distance = along.hypot(across) if shape % 2 else torch.maximum(along.abs(), across.abs())
        cover = (4 * (1 - distance)).clamp(0, 1)
        image = image * (1 - cover) + uniform(0, 1, 3) * cover
    return image * (1 - 0.5 * columns)


def trained(network, group, steps=25):
    """A canonicalizer that has learned which way up landscapes are."""
    module = Canonicalizer(network, group, vector_size=32, beta=10.0, network_dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    for step in range(steps):
        form = module.train()(landscapes(64, seed=step))
        (form.prior_loss(beta=10.0) + 0.001 * form.contrastive_loss()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return module.eval()


@pytest.mark.parametrize("group", ["C4", "D4", "C8"])
def test_nearly_all_pictures_get_the_element_that_they_get_in_float32(group):
    """At least 99.5 % of them, which are turned at random, by a network that was trained a little."""
    torch.manual_seed(0)
    module = trained(ConvNetwork((3, 32, 32), 16, 5, 3, 32), group)
    x = act(landscapes(1000, seed=1000), ids(group, 1000), group=group)
    with torch.no_grad():
        forms = [m(x) for m in (module, in_float32(module))]
    narrow, wide = (form.element for form in forms)
    assert not torch.equal(forms[0].vectors, forms[1].vectors) and len(wide.unique()) == as_group(group).order
    assert (narrow == wide).double().mean() >= 0.995


def test_a_fused_network_gives_the_same():
    plain = canonicalizer("ResNet")
    fused = copy.deepcopy(plain)
    fused.network = fuse_first_layer(fused.network, "C4")
    with torch.no_grad():
        assert_same(fused(images()).vectors, plain(images()).vectors)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("pixels", [torch.float32, torch.float64, *NARROW], ids=str)
def test_everything_but_the_network_is_wide(dtype, pixels):
    x, seen = images().to(pixels), []

    def score(vectors):
        seen.append((vectors.dtype, torch.is_autocast_enabled("cpu")))
        return vectors[:, 0]

    def preprocess(x):
        seen.append((x.dtype, torch.is_autocast_enabled("cpu")))
        return x.float()

    for options in ({}, {"score": score}, {"preprocess": preprocess}):
        options = {"preprocess": torch.Tensor.float} | options
        module = canonicalizer(dtype=dtype, **options)
        form = module(x)
        kinds = {t.dtype for t in (form.vectors, form.activations, form.probabilities)}
        assert kinds == {torch.float32} and form.image.dtype == pixels
        assert_same(form.image, act(x, form.element, group="C4", inverse=True))
    assert seen == [(torch.float32, False), (pixels, False)]
    assert not torch.is_autocast_enabled("cpu")
    assert {t.dtype for t in module.state_dict().values()} <= {torch.float32, torch.int64}


def test_float64_stays_float64_as_under_autocast():
    """torch casts no float64."""
    module = canonicalizer().double()
    with torch.no_grad():
        actual, expected = (m(images().double()).vectors for m in (module, in_float32(module)))
    assert actual.dtype == torch.float64
    assert_near(actual, expected)


def test_autocast_ends_where_the_network_fails():
    def broken(rows):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        canonicalize(images(), broken, rand(3), group="C4", network_dtype=torch.bfloat16)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", ["ConvNetwork", "ResNet", "TinyCanonicalizer"])
@pytest.mark.parametrize("group", ["C4", "D4", "C8", "D2"])
def test_a_moved_image_has_the_same_canonical_image(name, group):
    x, module = images(4), canonicalizer(name, group)
    with torch.no_grad():
        form = module(x)
        assert not form.tied.any()
        for h in exact_elements(group, x.shape[2:]):
            moved = module(act(x, torch.full((4,), h), group=group))
            assert moved.element.tolist() == [as_group(group).compose(h, e) for e in form.element.tolist()]
            assert_same(moved.image, form.image)


def _step(module):
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module.train()(images()).vectors.square().sum().backward()
    optimizer.step()
    module.eval()


CHANGES = {
    "a training step": _step,
    "other weights": lambda module: module.load_state_dict(canonicalizer_of(7).state_dict()),
    "changed in place": lambda module: module.network.enc_network[0].weight.detach().mul_(-1),
    "changed below the version counter": lambda module: module.network.enc_network[0].weight.data.mul_(-1),
    "statistics": lambda module: module.network.enc_network[1].running_mean.add_(1),
    "there and back": lambda module: module.half().float(),
}


def canonicalizer_of(seed):
    torch.manual_seed(seed)
    return Canonicalizer(ConvNetwork((3, 32, 32), 4, 3, 3, 10), "C4", network_dtype=torch.bfloat16).eval()


@pytest.mark.parametrize("change", CHANGES)
def test_no_weights_are_kept_from_an_earlier_call(change):
    module = canonicalizer_of(0)
    with torch.no_grad():
        before = module(images()).vectors
    CHANGES[change](module)
    fresh = canonicalizer_of(1)
    fresh.load_state_dict(module.state_dict())
    with torch.no_grad():
        after = module(images()).vectors
        assert_same(after, fresh(images()).vectors)
    assert change == "there and back" or not torch.equal(after, before)


@pytest.mark.parametrize("name", ["ConvNetwork", "TinyCanonicalizer"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_wide_and_near_those_of_float32(name, training):
    module, x = canonicalizer(name).train(training), images()
    for dropout in filter(lambda m: isinstance(m, nn.Dropout), module.modules()):
        dropout.p = 0.0

    def gradients(module):
        y = x.clone().requires_grad_()
        form = module(y)
        loss = (form.vectors * rand(6, 4, 10, seed=8)).sum() + form.activations[:, 1].sum()
        return torch.autograd.grad(loss, [y, *module.parameters()])

    narrow, wide = gradients(module), gradients(in_float32(module))
    for actual, expected in zip(narrow, wide, strict=True):
        assert actual.dtype == torch.float32
        # In training, a bias before a batch normalization has a gradient of zero but for rounding.
        if expected.norm() > 1e-3 * max(g.norm() for g in wide):
            assert F.cosine_similarity(actual.flatten(), expected.flatten(), 0) > 0.98


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_compiled(backend):
    torch._dynamo.reset()
    module = canonicalizer()
    with torch.no_grad():
        expected = module(images())
        form = torch.compile(module, backend=backend)(images())
    assert_rounded(form.vectors, expected.vectors, torch.bfloat16)
    assert form.vectors.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    torch._dynamo.reset()


@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("side", [32, 33, 47])
def test_any_batch_and_any_size(batch, side):
    module = canonicalizer("ResNet", "C8")
    with torch.no_grad():
        form = module(images(batch, side))
        wide = in_float32(module)(images(batch, side))
    assert form.vectors.shape == (batch, 8, 10)
    if batch:
        assert_rounded(form.vectors, wide.vectors, torch.bfloat16)


def test_parts_of_a_batch_do_not_show(monkeypatch):
    module, x = canonicalizer(), images(7)
    calls = []
    module.network.final_fc[-1].register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    with torch.no_grad():
        whole = module(x).vectors
        module.network.final_fc[-1]._forward_pre_hooks.clear()
        for name in ("NARROW_CHUNK_BYTES", "LITTLE_CHUNK_BYTES"):
            monkeypatch.setattr(orbit_vectors, name, 3 * 4 * x[0].numel() * 2)
        assert orbit_vectors._chunk(x, module.network, as_group("C4")) == 7
        with torch.autocast("cpu", torch.bfloat16):
            assert orbit_vectors._chunk(x, module.network, as_group("C4")) == 3
        assert_same(module(x).vectors, whole)
    assert calls == [28]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_image_that_is_not_finite_keeps_its_orientation(value):
    """Of our own layers. In oneDNN's linear layers, a NaN may reach the image before it."""
    module, x = canonicalizer("TinyCanonicalizer"), images()
    x[2, 1, 5, 5] = value
    with torch.no_grad():
        form, clean = module(x), module(images())
    others = [0, 1, 3, 4, 5]
    assert form.probabilities[2].isnan().all() and form.element[2] == 0
    assert_same(form.vectors[others], clean.vectors[others])


def test_what_can_not_be():
    x, network = images(), build("ResNet")
    expected = "network_dtype: expected one of None, torch.bfloat16, torch.float16, got torch.float64"
    with pytest.raises(ValueError, match=expected):
        canonicalize(x, network, rand(10), group="C4", network_dtype=torch.float64)
    with pytest.raises(ValueError, match=expected):
        Canonicalizer(network, "C4", network_dtype=torch.float64)
    with pytest.raises(ValueError, match="network_dtype: expected None, since activations are given"):
        canonicalize(x, None, None, group="C4", activations=rand(6, 4), network_dtype=torch.bfloat16)


def test_its_name_is_told():
    assert "network_dtype=torch.bfloat16" in repr(canonicalizer())
    assert "network_dtype" not in repr(canonicalizer(dtype=None))
