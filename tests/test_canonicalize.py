"""The pipeline: against its definition, the laws it must keep, and what it accepts."""

import pytest
import torch
from torch import nn
from torch.utils import _pytree

from equifast import CanonicalForm, canonicalize, reference
from equifast.estimators import ESTIMATORS
from equifast.groups import Group, as_group
from equifast.nn import Canonicalizer, ConvNetwork, fuse_first_layer

from .cases import on_rows

#: Every element of C4 and D4, and of C8 and D8 those that permute pixels.
EXACT = [(g, h) for g in ("C4", "D4") for h in range(as_group(g).order)]
EXACT += [("C8", h) for h in (0, 2, 4, 6)] + [("D8", h) for h in (4, 8, 14)]


def small_network(size=16, dropout=0.0, seed=0):
    torch.manual_seed(seed)
    network = ConvNetwork((3, size, size), 4, 5, 2, 8)
    network.final_fc[1].p = dropout
    for norm in network.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(norm.bias)
    return network


@pytest.fixture(scope="module")
def network():
    return small_network()


@pytest.fixture
def x():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def vector():
    return torch.randn(8, generator=torch.Generator().manual_seed(2))


def members(x, group):
    """The orbit as (B, E, C, H, W)."""
    return reference.orbit(x, group).unflatten(0, (as_group(group).order, x.shape[0])).transpose(0, 1)


def run(network, x, vector, group, *, fuse=False, training=False, **options):
    network.train(training)
    actor = network if fuse else on_rows(network)
    with torch.no_grad():
        return canonicalize(x, actor, vector, group=group, **options)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("group", ["C1", "C4", "D4", "C8", "D3"])
def test_equals_its_definition(network, x, vector, group, similarity):
    form = run(network, x, vector, group, similarity=similarity, beta=3.0)
    with torch.no_grad():
        vectors = network(reference.orbit(x, group))
    scores = reference.orbit_scores(vectors, vector, group=group, beta=3.0, similarity=similarity)
    assert torch.equal(form.element, scores.element)
    torch.testing.assert_close(form.activations, scores.activations, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(form.probabilities, scores.probabilities, rtol=1e-4, atol=1e-5)
    expected = vectors.unflatten(0, (-1, 4)).transpose(0, 1)
    torch.testing.assert_close(form.vectors, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(form.image, members(x, group)[torch.arange(4), form.element])


class TestLaws:
    @pytest.mark.parametrize("size", [16, 17])
    @pytest.mark.parametrize("fuse", [False, True])
    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize(("group", "h"), EXACT)
    def test_canonical_images_are_invariant_to_the_last_bit(self, vector, group, h, training, fuse, size):
        network = small_network(size)
        x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
        moved = reference.act(x, torch.full((3,), h), group=group)
        # Batch statistics move with every call, but the running ones are not what a training pass reads.
        before = run(network, x, vector, group, fuse=fuse, training=training)
        after = run(network, moved, vector, group, fuse=fuse, training=training)
        assert torch.equal(after.image, before.image)
        group = as_group(group)
        assert after.element.tolist() == [group.compose(h, e) for e in before.element.tolist()]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_in_other_types(self, vector, dtype):
        network, vector = small_network().to(dtype), vector.to(dtype)
        x = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
        moved = [reference.act(x, torch.full((16,), h), group="D4") for h in range(8)]
        forms = [run(network, y, vector, "D4", fuse=h % 2 == 0, similarity="dot") for h, y in enumerate(moved)]
        assert forms[0].image.dtype == dtype and forms[0].probabilities.dtype == dtype
        top = forms[0].activations.float().topk(2).values
        # A narrow network rounds by how rows come to it: only a clear choice has to stay.
        clear = (top[:, 0] - top[:, 1]) > (0 if dtype == torch.float64 else 0.02 * top[:, 0].abs())
        assert clear.any()
        for form in forms[1:]:
            assert torch.equal(form.image[clear], forms[0].image[clear])

    @pytest.mark.parametrize("group", ["C4", "D4"])
    def test_inverting_restores_the_input(self, network, x, vector, group):
        form = run(network, x, vector, group)
        assert torch.equal(form.invert(form.image), x)

    @pytest.mark.parametrize("representation", ["trivial", "regular", "vector"])
    @pytest.mark.parametrize("group", ["C4", "D4"])
    def test_any_predictor_becomes_equivariant(self, network, x, vector, group, representation):
        torch.manual_seed(3)
        predictor = nn.Conv2d(3, 2 * as_group(group).order, 3, padding=1)

        def predict(images):
            form = run(network, images, vector, group)
            with torch.no_grad():
                return form.invert(predictor(form.image), representation)

        expected = predict(x)
        for h in range(as_group(group).order):
            h = torch.full((4,), h)
            moved = reference.act(x, h, group=group)
            turned = reference.act(expected, h, group=group, representation=representation)
            torch.testing.assert_close(predict(moved), turned, rtol=1e-5, atol=1e-6)

    def test_outputs_of_another_size_invert_about_their_own_centre(self, network, x, vector):
        form = run(network, x, vector, "D4")
        coarse = form.image[:, :, ::2, ::2] + form.image[:, :, 1::2, 1::2]
        coarse = coarse + form.image[:, :, 1::2, ::2] + form.image[:, :, ::2, 1::2]
        expected = x[:, :, ::2, ::2] + x[:, :, 1::2, 1::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2]
        torch.testing.assert_close(form.invert(coarse), expected)


class TestOtherScores:
    def test_score_in_place_of_a_reference(self, network, x):
        form = run(network, x, None, "D4", score=lambda v: v.amax(1) - v.logsumexp(1), beta=2.0)
        with torch.no_grad():
            v = network(reference.orbit(x, "D4"))
        expected = reference.select((v.amax(1) - v.logsumexp(1)).unflatten(0, (8, 4)).t(), 2.0)
        assert torch.equal(form.element, expected.element)
        torch.testing.assert_close(form.probabilities, expected.probabilities, rtol=1e-4, atol=1e-5)

    def test_activations_skip_the_orbit(self, x):
        activations = torch.randn(4, 8, generator=torch.Generator().manual_seed(5)).requires_grad_()
        form = canonicalize(x, None, None, group="D4", activations=activations, beta=2.0)
        assert form.vectors is None
        assert torch.equal(form.image, members(x, "D4")[torch.arange(4), activations.argmax(1)])
        form.image.square().sum().backward()
        assert activations.grad.abs().sum() > 0
        with pytest.raises(ValueError, match="vectors: none here"):
            form.contrastive_loss()

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_a_score_that_is_not_finite_means_the_identity(self, x, estimator):
        activations = torch.randn(4, 4, generator=torch.Generator().manual_seed(5))
        activations[1, 2], activations[2, 0] = torch.nan, torch.inf
        form = canonicalize(x, None, None, group="C4", activations=activations, estimator=estimator)
        assert form.element[1] == 0 and form.element[2] == 0
        assert form.probabilities[1:3].isnan().all() and form.probabilities[[0, 3]].isfinite().all()
        assert torch.equal(form.image[1:3], x[1:3])
        assert form.tied.tolist() == [False, True, True, False]

    def test_minus_infinity_masks_elements(self, network, x):
        """Activations from outside and a scoring callable alike: here all but the half turn."""
        mask = torch.tensor([-torch.inf, -torch.inf, 0.0, -torch.inf])
        given = canonicalize(x, None, None, group="C4", activations=mask.expand(4, 4), beta=0.0)
        scored = run(network, x, None, "C4", score=lambda v: v.sum(1) + mask.repeat_interleave(4))
        for form in (given, scored):
            assert form.element.tolist() == [2] * 4
            assert torch.equal(form.probabilities, torch.eye(4)[[2] * 4])
            assert torch.equal(form.image, x.rot90(2, (2, 3)))


class TestGradients:
    def test_reach_network_reference_and_images(self, x, vector):
        network = small_network().train()
        x.requires_grad_(), vector.requires_grad_()
        form = canonicalize(x, network, vector, group="D4")
        weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        (form.image * weight).sum().backward()
        assert x.grad.abs().sum() > 0 and vector.grad.abs().sum() > 0
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())

    @pytest.mark.parametrize("fuse", [False, True])
    def test_a_training_step_equals_the_expectation_differentiated(self, x, vector, fuse):
        """Straight-through, three losses: against plain autograd on the blend of orbit members."""
        weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        grads = []
        for ours in (True, False):
            network, r = small_network().train(), vector.clone().requires_grad_()
            if ours:
                actor = network if fuse else on_rows(network)
                form = canonicalize(x, actor, r, group="D4", beta=2.0)
                loss = (form.image * weight).mean() + form.prior_loss() + form.contrastive_loss()
            else:
                vectors = network(reference.orbit(x, "D4"))
                scores = reference.orbit_scores(vectors, r, group="D4", beta=2.0)
                blend = (scores.probabilities[:, :, None, None, None] * members(x, "D4")).sum(1)
                prior = -scores.activations.log_softmax(1)[:, 0].mean()
                loss = (blend * weight).mean() + prior + reference.contrastive_loss(vectors, group="D4")
            loss.backward()
            grads.append([r.grad, *(p.grad for p in network.parameters())])
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "gumbel"])  # whose noise differs
    def test_a_sample_that_falls_back_changes_no_gradient_of_others(self, x, vector, estimator):
        """The vectors of the third image are NaN: all gradients are those of the batch without that image."""
        weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

        def step(rows, nan):
            images, r, network = x[rows].requires_grad_(), vector.clone().requires_grad_(), small_network().eval()
            outputs = []

            def spoiled(members):
                outputs.append(network(members))
                return outputs[0] + nan

            form = canonicalize(images, spoiled, r, group="D4", estimator=estimator)
            losses = form.prior_loss() + form.contrastive_loss()
            loss = (form.image * weight[rows]).sum() + len(rows) * losses
            return form, torch.autograd.grad(loss, [images, *outputs, r, *network.parameters()])

        nan = torch.zeros(8, 4, 1)
        nan[:, 2] = torch.nan
        form, (of_x, of_vectors, *of_parameters) = step([0, 1, 2, 3], nan.flatten(0, 1))
        _, (expected_of_x, _, *expected) = step([0, 1, 3], 0)
        assert form.probabilities.isnan().all(1).tolist() == [False, False, True, False]
        assert torch.equal(form.image[2], x[2]) and torch.equal(of_x[2], weight[2])
        torch.testing.assert_close(of_x[[0, 1, 3]], expected_of_x)
        assert not of_vectors.unflatten(0, (8, 4))[:, 2].any()
        for actual, same in zip(of_parameters, expected, strict=True):
            torch.testing.assert_close(actual, same, rtol=1e-4, atol=1e-5)

    def test_forms_are_independent(self, x, vector):
        """Two batches under way at once, the losses of the first taken last."""
        network = small_network().eval()
        alone = canonicalize(x[:2], network, vector, group="C4")
        loss = alone.prior_loss() + alone.contrastive_loss()
        first = canonicalize(x[:2], network, vector, group="C4")
        second = canonicalize(x[2:], network, vector, group="C4")
        assert not torch.equal(first.element, second.element) or not torch.equal(first.vectors, second.vectors)
        assert torch.equal(first.prior_loss() + first.contrastive_loss(), loss)

    def test_nothing_is_kept_on_the_network(self, network, x, vector):
        before = {name: set(module.__dict__) for name, module in network.named_modules()}
        run(network, x, vector, "C4", fuse=True)
        assert {name: set(module.__dict__) for name, module in network.named_modules()} == before


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch(network, vector, training, fuse):
    form = run(network, torch.rand(0, 3, 16, 16), vector, "D4", fuse=fuse, training=training)
    assert form.image.shape == (0, 3, 16, 16) and form.element.shape == (0,)
    assert form.activations.shape == (0, 8) and form.vectors.shape == (0, 8, 8)
    assert form.invert(form.image).shape == (0, 3, 16, 16)


def test_images_need_not_be_square(vector):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 8))
    x = torch.rand(3, 3, 12, 17)
    form = run(network, x, vector, "D2", fuse=True)
    assert torch.equal(form.invert(form.image), x)
    assert run(network, x, vector, "C8", fuse=True).image.shape == x.shape


def test_strides_do_not_matter(network, x, vector):
    expected = run(network, x, vector, "D4")
    strided = torch.rand(8, 3, 16, 32)[::2, :, :, ::2].copy_(x)
    for same in (strided, x.contiguous(memory_format=torch.channels_last)):
        form = run(network, same, vector, "D4", fuse=True)
        assert torch.equal(form.image, expected.image) and torch.equal(form.element, expected.element)


def test_under_autocast(network, x, vector):
    network.eval()
    expected = run(network, x, vector, "C4")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        form = canonicalize(x, network, vector, group="C4")
    assert form.image.dtype == torch.float32
    torch.testing.assert_close(form.activations.float(), expected.activations, rtol=0.05, atol=0.05)


def test_a_narrow_network_meets_a_wide_reference(network, x, vector):
    expected = run(network, x, vector, "C4")
    with torch.no_grad():
        form = canonicalize(x, lambda rows: network(rows).bfloat16(), vector, group="C4")
    assert form.vectors.dtype == torch.bfloat16 and form.activations.dtype == torch.float32
    torch.testing.assert_close(form.activations, expected.activations, rtol=0, atol=0.02)


def test_a_form_is_a_pytree(network, x, vector):
    form = run(network, x, vector, "D4")
    leaves, spec = _pytree.tree_flatten(form)
    assert len(leaves) == 5 and all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    again = _pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, form)
    assert isinstance(again, CanonicalForm) and again.image.dtype == torch.float64 and again.group == form.group
    assert again.padding_mode == form.padding_mode and torch.equal(again.element, form.element)
    without = canonicalize(x, None, None, group="C4", activations=torch.rand(4, 4))
    assert _pytree.tree_unflatten(*reversed(_pytree.tree_flatten(without)[::1])).vectors is None


def test_identity_rate(x):
    activations = torch.eye(4)[[0, 2, 0, 0]]
    assert canonicalize(x, None, None, group="C4", activations=activations).identity_rate().item() == 0.75


def test_a_network_fused_for_something_else_is_refused(network, x, vector):
    fused = fuse_first_layer(network, "D4")
    canonicalize(x, fused, vector, group=Group(4, reflections=True))
    message = "network: makes the orbit of D4 with border padding, called for"
    with pytest.raises(ValueError, match=f"{message} C4 with border"):
        canonicalize(x, fused, vector, group="C4")
    with pytest.raises(ValueError, match=f"{message} D4 with zeros"):
        canonicalize(x, fused, vector, group="D4", padding_mode="zeros")


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_compiles_into_one_graph(x, vector, training, fuse):
    torch._dynamo.reset()
    network = small_network().train(training)
    actor = network if fuse else on_rows(network)
    vector.requires_grad_()

    def step(x):
        form = canonicalize(x, actor, vector, group="D4", beta=2.0)
        return form, form.prior_loss() + form.contrastive_loss() + form.image.square().mean()

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        with torch.set_grad_enabled(training):
            form, loss = function(x)
            grads = torch.autograd.grad(loss, [vector, *network.parameters()]) if training else []
        results.append((form, [loss, *grads]))
    (eager, values), (compiled, same) = results
    assert isinstance(compiled, CanonicalForm) and compiled.group == as_group("D4")
    assert torch.equal(compiled.image, eager.image) and torch.equal(compiled.element, eager.element)
    torch.testing.assert_close(compiled.invert(compiled.image), x)
    for a, b in zip(same, values, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("group", ["D4", "C8"])
def test_on_a_gpu(x, vector, group):
    """A module moved after fusing: the same choice and gradients as on the CPU, and the law of its exact elements."""
    grads, forms = [], []
    for device in ("cpu", "cuda"):
        module = Canonicalizer(small_network(), group, reference=vector, beta=2.0).to(device)
        y = x.detach().to(device).requires_grad_()
        form = module(y)
        loss = form.image.square().mean() + form.prior_loss() + form.contrastive_loss()
        grads.append([g.cpu() for g in torch.autograd.grad(loss, [y, *module.parameters()])])
        forms.append(form)
        turned = module.eval()(torch.rot90(y, 1, (2, 3))).image
        assert torch.equal(turned, module(y).image)
        assert form.transform_boxes(torch.rand(4, 2, 4, device=device)).device.type == device
        everything = torch.ones(4, 16, 16, dtype=torch.bool, device=device)
        assert form.invert_masks(everything, padding_mode="border").all()
    assert torch.equal(forms[0].element, forms[1].element.cpu())
    torch.testing.assert_close(forms[0].image, forms[1].image.cpu(), rtol=1e-5, atol=1e-5)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)
