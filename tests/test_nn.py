"""OrbitConv2d, ConvNetwork, folding and Canonicalizer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equifast import backends, reference
from equifast.canonicalize import canonicalize
from equifast.nn import Canonicalizer, ConvNetwork, OrbitConv2d
from equifast.nn.folding import folded, run

from . import peers
from .cases import on_rows


def randomize(module):
    """Statistics and weights that a forgotten one would show."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
    return module


@pytest.fixture
def x():
    return torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))


class TestFolding:
    @pytest.mark.parametrize("affine", [True, False])
    @pytest.mark.parametrize("bias", [True, False])
    def test_folded_equals_norm_after_convolution(self, x, bias, affine):
        torch.manual_seed(0)
        conv, norm = nn.Conv2d(3, 5, 3, bias=bias), randomize(nn.BatchNorm2d(5, eps=0.1, affine=affine)).eval()
        torch.testing.assert_close(F.conv2d(x, *folded(conv, norm)), norm(conv(x)))

    def test_narrow_types_fold_in_a_wide_one(self):
        torch.manual_seed(0)
        conv, norm = nn.Conv2d(3, 5, 3), randomize(nn.BatchNorm2d(5)).eval()
        narrow = folded(copy.deepcopy(conv).bfloat16(), norm)
        assert [t.dtype for t in narrow] == [torch.bfloat16] * 2
        torch.testing.assert_close(narrow[0].float(), folded(conv, norm)[0], rtol=2e-2, atol=2e-2)

    @pytest.mark.parametrize(
        "layers",
        [
            lambda: (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 4, 3), nn.ReLU()),
            lambda: (nn.ReLU(), nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4)),
            lambda: (nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.GELU("tanh")),
            lambda: (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), nn.SiLU()),
            lambda: (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Identity(), nn.ReLU()),
        ],
    )
    def test_run_equals_the_sequence(self, x, layers):
        torch.manual_seed(0)
        sequence = randomize(nn.Sequential(*layers())).eval()
        kept = x.clone()
        with torch.no_grad():
            torch.testing.assert_close(run(sequence, x, fold=True), sequence(x))
        assert torch.equal(x, kept)

    @pytest.mark.parametrize("channels", [3, 16, 17])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_any_dtype_layout_and_width(self, channels, dtype):
        torch.manual_seed(0)
        layers = nn.Conv2d(channels, 20, (3, 5), 2, (1, 0)), nn.BatchNorm2d(20), nn.GELU(), nn.Conv2d(20, 4, 3)
        sequence = randomize(nn.Sequential(*layers)).eval().to(dtype)
        x = torch.rand(2, channels, 16, 18, dtype=dtype)
        like = sequence.double()(x.double()).detach()
        sequence.to(dtype)
        near = {"rtol": 5e-2, "atol": 5e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
        with torch.no_grad():
            for each in (x, x.contiguous(memory_format=torch.channels_last), x.flip(0).flip(0)):
                out = run(sequence, each, fold=True)
                assert out.dtype == dtype
                torch.testing.assert_close(out.double(), like, **near)

    def test_what_torch_transforms_is_made_of_its_own_ops(self, x):
        """Traces, `torch.func` and autocast."""
        torch.manual_seed(0)
        sequence = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU())).eval()
        sequence.requires_grad_(False)
        with torch.no_grad():
            like = sequence(x)
            traced = torch.jit.trace(lambda rows: run(sequence, rows, fold=True), x)
            assert "equifast::" not in str(traced.graph)
            torch.testing.assert_close(traced(x), like)
            each = torch.func.vmap(lambda row: run(sequence, row[None], fold=True)[0])(x)
            torch.testing.assert_close(each, like)
            with torch.autocast("cpu", torch.bfloat16):
                assert run(sequence, x, fold=True).dtype == torch.bfloat16

    @pytest.mark.parametrize("which", [0, 1, 2])
    def test_hooks_are_called(self, x, which):
        sequence = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
        calls = []
        sequence[which].register_forward_hook(lambda module, args, out: calls.append(module))
        with torch.no_grad():
            run(sequence, x, fold=True)
        assert calls == [sequence[which]]


class TestOrbitConv2d:
    @pytest.mark.parametrize("activation", [None, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh])
    @pytest.mark.parametrize("norm", [False, True])
    @pytest.mark.parametrize("training", [False, True])
    def test_equals_its_parts_on_the_orbit(self, x, activation, norm, training):
        torch.manual_seed(0)
        layer = OrbitConv2d(
            3,
            4,
            (3, 5),
            "D4",
            stride=2,
            padding=(1, 0),
            norm=randomize(nn.BatchNorm2d(4)) if norm else None,
            activation=activation() if activation else None,
        ).train(training)
        y = F.conv2d(reference.orbit(x, "D4"), layer.weight, layer.bias, 2, (1, 0))
        y = copy.deepcopy(layer.norm)(y) if norm else y
        y = layer.activation(y) if activation else y
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                torch.testing.assert_close(copy.deepcopy(layer)(x), y, rtol=1e-4, atol=1e-5)

    def test_gradients_reach_all_parameters(self, x):
        layer = OrbitConv2d(3, 4, 3, "C4", norm=nn.BatchNorm2d(4), activation=nn.GELU())
        layer(x.requires_grad_()).square().mean().backward()
        assert all(p.grad is not None for p in layer.parameters()) and x.grad is not None
        assert sorted(layer.state_dict())[:2] == ["bias", "norm.bias"]

    def test_parameters_are_those_of_the_convolution(self, x):
        conv = nn.Conv2d(3, 4, 3)
        layer = OrbitConv2d.from_conv(conv, "C4")
        conv.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        assert layer.weight is conv.weight and layer.bias is conv.bias

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: OrbitConv2d.from_conv(nn.Conv2d(4, 4, 3, groups=2), "C4"), "groups=1, got 2"),
            (lambda: OrbitConv2d.from_conv(nn.Conv2d(3, 4, 3, padding_mode="circular"), "C4"), "zeros, got circular"),
            (lambda: OrbitConv2d.from_conv(nn.Conv1d(3, 4, 3), "C4"), "conv: expected a plain .* got Conv1d"),
            (lambda: OrbitConv2d(3, 4, 3, "C0"), "group: "),
            (lambda: OrbitConv2d(3, 4, 3, "C4", padding_mode="reflect"), "padding_mode: .*reflect"),
        ],
    )
    def test_what_is_wrong_is_named(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    def test_repr(self):
        text = repr(OrbitConv2d(3, 8, 7, "C4", stride=2, activation=nn.GELU()))
        assert "C4, weight 8 × 3 × 7 × 7, stride=(2, 2)" in text and "(activation): GELU" in text


class TestConvNetwork:
    def test_layout_is_that_of_published_checkpoints(self):
        state = ConvNetwork((3, 96, 96)).state_dict()
        shapes = {key: tuple(value.shape) for key, value in state.items() if value.dim() > 1}
        assert shapes == {
            "enc_network.0.weight": (16, 3, 7, 7),
            "enc_network.3.weight": (16, 16, 7, 7),
            "enc_network.6.weight": (32, 16, 7, 7),
            "final_fc.3.weight": (128, 2048),
        }
        norms = ("enc_network.1", "enc_network.4", "enc_network.7", "final_fc.0")
        rest = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        expected = {f"{norm}.{name}" for norm in norms for name in rest}
        expected |= {key.replace("weight", kind) for key in shapes for kind in ("weight", "bias")}
        assert set(state) == expected

    def test_loads_from_equiadapt_and_agrees(self, x):
        peers.equiadapt()
        from equiadapt.images.canonicalization_networks import custom_nonequivariant_networks as published

        theirs = randomize(published.ConvNetwork((3, 64, 64), 8, 5, 3, 32)).eval()
        ours = ConvNetwork((3, 64, 64), 8, 5, 3, 32).eval()
        ours.load_state_dict(theirs.state_dict())
        x = torch.rand(4, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("size", [(33, 40), (64, 64)])
    def test_without_a_graph_it_folds_and_agrees(self, size):
        torch.manual_seed(0)
        network = randomize(ConvNetwork((3, *size), 8, 5, 3, 16)).eval()
        x = torch.rand(5, 3, *size)
        plain = network.final_fc(network.enc_network(x).flatten(1))
        torch.testing.assert_close(network(x), plain, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(network(x), plain.detach(), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("name", ["", "enc_network", "enc_network.1", "final_fc.2"])
    def test_hooks_are_called_without_a_graph_too(self, name):
        network, calls = ConvNetwork((3, 20, 20), 4, 5, 2, 8).eval(), []
        network.get_submodule(name).register_forward_hook(lambda module, args, out: calls.append(module))
        with torch.no_grad():
            network(torch.rand(2, 3, 20, 20))
        assert calls == [network.get_submodule(name)]

    @pytest.mark.skipif(backends.choose("cpu") != "cpu", reason="the native library runs layers together")
    def test_keeps_little_where_all_layers_run_together(self):
        x = torch.rand(2, 3, 20, 20)

        def keeps_little(images=x, change=lambda network: None):
            network = ConvNetwork((3, 20, 20), 4, 5, 2, 8).eval()
            change(network)
            return network.keeps_little(images)

        def hook(network):
            network.enc_network[3].register_forward_hook(lambda *args: None)

        assert not keeps_little()  # a graph is recorded
        with torch.no_grad():
            assert keeps_little()
            assert not keeps_little(change=lambda network: network.train())
            assert not keeps_little(change=hook)
            assert not keeps_little(change=lambda network: network.enc_network.append(nn.MaxPool2d(2)))
            assert keeps_little(x.bfloat16(), lambda network: network.bfloat16())
            assert not keeps_little(x.bfloat16())  # F.conv2d refuses these
            assert not keeps_little(x.double(), lambda network: network.double())
            for dtype, expected in ((torch.bfloat16, True), (torch.float16, False)):
                with torch.autocast("cpu", dtype):
                    assert keeps_little() == expected
                    assert keeps_little(x.bfloat16(), lambda network: network.bfloat16()) == expected
                    assert not keeps_little(x.double(), lambda network: network.double())

    @pytest.mark.parametrize("layer", [0, 3])
    def test_layers_follow_what_is_done_to_their_parameters(self, layer):
        """Nothing is kept from one call to the next."""
        torch.manual_seed(0)
        network = randomize(ConvNetwork((3, 20, 20), 4, 5, 2, 8)).eval()
        x = torch.rand(2, 3, 20, 20)
        conv, norm = network.enc_network[layer], network.enc_network[layer + 1]
        with torch.no_grad():
            network(x)
            for t in (conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias):
                t.data.mul_(1.5)
                plain = network.final_fc(network.enc_network(x).flatten(1))
                torch.testing.assert_close(network(x), plain, rtol=1e-4, atol=1e-4)

    def test_dropout_keeps_rows(self):
        torch.manual_seed(0)
        network = ConvNetwork((3, 40, 40), 8, 5, 2, 8)
        out = network(torch.rand(32, 3, 40, 40))
        assert out.unique(dim=0).shape[0] == 32

    def test_an_empty_batch_passes(self):
        with torch.no_grad():
            assert ConvNetwork((3, 20, 20), 4, 5, 2, 8).eval()(torch.rand(0, 3, 20, 20)).shape == (0, 8)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"in_shape": (3, 96, 20)}, "in_shape: 96×20 is too small for 3 layers with kernel 7.*layer 3"),
            ({"in_shape": (96, 96)}, r"in_shape: expected \(C, H, W\), got \(96, 96\)"),
            ({"in_shape": (3, 96, 96), "num_layers": 0}, "num_layers: expected at least 1"),
        ],
    )
    def test_what_is_wrong_is_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            ConvNetwork(**options)


def network():
    torch.manual_seed(0)
    return randomize(ConvNetwork((3, 20, 20), 4, 5, 2, 8))


class TestCanonicalizer:
    def test_equals_the_function(self, x):
        module = Canonicalizer(network(), "D4", beta=3.0).eval()
        with torch.no_grad():
            ours = module(x)
            theirs = canonicalize(x, on_rows(module.network), module.reference, group="D4", beta=3.0)
        assert torch.equal(ours.element, theirs.element) and torch.equal(ours.image, theirs.image)
        for name in ("activations", "probabilities", "vectors"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-4)

    def test_state_has_every_tensor_once(self):
        inner = network()
        module = Canonicalizer(inner, "C4")
        assert set(module.state_dict()) == {"reference"} | {f"network.{key}" for key in inner.state_dict()}
        assert len(list(module.parameters())) == 1 + len(list(inner.parameters()))

    def test_one_step_of_an_optimizer_moves_everything(self, x):
        module = Canonicalizer(network(), "C8")
        before = [p.clone() for p in module.parameters()]
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        form = module(x)
        (form.image.square().mean() + form.prior_loss() + form.contrastive_loss()).backward()
        optimizer.step()
        moved = [not torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True)]
        assert all(moved)

    def test_a_deep_copy_is_independent(self, x):
        module = Canonicalizer(network(), "C4").eval()
        twin = copy.deepcopy(module)
        with torch.no_grad():
            before = module(x).vectors
            for p in twin.parameters():
                p.zero_()
            assert torch.equal(module(x).vectors, before)
            assert not torch.equal(twin(x).vectors, before)

    def test_the_reference_may_be_given_or_fixed(self, x):
        given = torch.ones(8)
        module = Canonicalizer(network(), "C4", reference=given, learn_reference=False)
        assert "reference" in dict(module.named_buffers()) and not module.reference.requires_grad
        module.reference.zero_()
        assert given.sum() == 8

    def test_gumbel_samples_in_training_alone(self, x):
        module = Canonicalizer(network(), "C8", estimator="gumbel", beta=0.1).eval()
        with torch.no_grad():
            first = module(x)
            assert torch.equal(first.element, first.activations.argmax(1))
            module.train()
            module.network.eval()
            draws = torch.stack([module(x).element for _ in range(10)])
        assert (draws != draws[0]).any()

    def test_a_classifier_may_score_itself(self, x):
        classifier = network()
        module = Canonicalizer(classifier, "C4", score=lambda v: v.softmax(1).amax(1)).eval()
        assert module.reference is None and "reference" not in module.state_dict()
        with torch.no_grad():
            form = module(x)
            confidence = classifier(reference.orbit(x, "C4")).softmax(1).amax(1).unflatten(0, (4, 3)).t()
        torch.testing.assert_close(form.activations, confidence, rtol=1e-4, atol=1e-5)

    def test_preprocess_comes_before_the_orbit(self, x):
        crop = nn.Sequential(nn.ZeroPad2d(-5), nn.Upsample(size=(20, 20)))
        module = Canonicalizer(network(), "C4", preprocess=crop).eval()
        with torch.no_grad():
            form = module(x)
            expected = module.network(reference.orbit(crop(x), "C4")).unflatten(0, (4, 3)).transpose(0, 1)
        torch.testing.assert_close(form.vectors, expected, rtol=1e-4, atol=1e-4)
        assert form.image.shape == x.shape

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"estimator": "magic"}, "estimator: expected one of straight_through, .* got 'magic'"),
            ({"reference": torch.ones(1, 8)}, r"reference: expected \(d,\), floating, got \(1, 8\)"),
            ({"reference": torch.ones(8), "vector_size": 4}, r"reference: expected \(4,\), floating, got \(8,\)"),
            ({"padding_mode": "wrap"}, "padding_mode: .*wrap"),
        ],
    )
    def test_what_is_wrong_is_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            Canonicalizer(**{"network": network(), "group": "C4", **options})

    def test_repr(self):
        text = repr(Canonicalizer(network(), "D8", beta=2.0))
        assert "D8, beta=2.0, similarity=cosine, estimator=straight_through, padding_mode=border" in text
