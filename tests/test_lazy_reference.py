"""The reference of a `Canonicalizer` is a parameter as torch has them, of a size that the first call may tell."""

import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.parametrizations import weight_norm

from equifast import lazy_orbit, reference
from equifast.nn import Canonicalizer, ConvNetwork


@pytest.fixture
def x():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class TestLazyReference:
    def network(self, d=6):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(64, d))

    def test_the_first_call_tells_its_size(self, x):
        network = self.network()
        network[2] = nn.Linear(64, 9)
        for learn in (True, False):
            canonicalizer = Canonicalizer(network, "C4", learn_reference=learn)
            before = canonicalizer.reference
            with torch.inference_mode():
                canonicalizer(x)
            assert canonicalizer.reference is before and before.shape == (9,) and 0.1 < before.std() < 3
            assert type(before) is (nn.Parameter if learn else torch.Tensor) and before.requires_grad == learn
            canonicalizer(x).prior_loss().backward()
            again = before.detach().clone()
            canonicalizer(x)
            assert torch.equal(before, again)

    def test_an_optimizer_made_before_that_trains_it(self, x):
        canonicalizer = Canonicalizer(self.network(), "C4")
        optimizer = torch.optim.AdamW(canonicalizer.parameters(), lr=0.1)
        canonicalizer(x).prior_loss().backward()
        before = canonicalizer.reference.detach().clone()
        optimizer.step()
        assert (canonicalizer.reference - before).abs().min() > 0

    def test_the_network_says_or_the_user_does(self):
        network = ConvNetwork((3, 20, 20), 4, 5, 2, 8)
        assert Canonicalizer(network, "C4").reference.shape == (8,)
        network.final_fc[3] = nn.Linear(4 * 3 * 3, 5)
        assert Canonicalizer(network, "C4").reference.shape == (5,)
        assert Canonicalizer(self.network(), "C4", vector_size=6).reference.shape == (6,)

    def test_a_wrong_size_is_named(self, x):
        with pytest.raises(ValueError, match=r"reference: expected \(6,\), got \(7,\)"):
            Canonicalizer(self.network(), "C4", vector_size=7)(x)

    def test_follows_its_network_to_another_type(self, x):
        canonicalizer = Canonicalizer(self.network(), "C4").double()
        canonicalizer(x.double())
        assert canonicalizer.reference.dtype == torch.float64
        assert Canonicalizer(self.network().double(), "C4").reference.dtype == torch.float64

    @pytest.mark.parametrize("called", [False, True])
    @pytest.mark.parametrize("learn", [False, True])
    def test_saves_and_loads_in_either_state(self, called, learn, x):
        saved = Canonicalizer(self.network(), "C4", learn_reference=learn)
        if called:
            saved(x)
        file = io.BytesIO()
        torch.save(saved.state_dict(), file)
        file.seek(0)
        loaded = Canonicalizer(self.network(), "C4", learn_reference=learn)
        loaded.load_state_dict(torch.load(file, weights_only=called))
        assert loaded(x).vectors.shape == (3, 4, 6)
        if called:
            assert torch.equal(loaded.reference, saved.reference)
            loaded(x)
            assert torch.equal(loaded.reference, saved.reference)

    def test_must_be_called_once_before_compiling(self, x):
        torch._dynamo.reset()
        canonicalizer = Canonicalizer(self.network(), "C4")
        with pytest.raises(Exception, match="call the module once before compiling, or give vector_size"):
            torch.compile(canonicalizer, fullgraph=True, backend="eager")(x)
        canonicalizer(x)
        torch._dynamo.reset()
        form = torch.compile(canonicalizer, fullgraph=True, backend="eager")(x)
        assert torch.equal(form.image, canonicalizer(x).image)


class TestParametersAsTorchHasThem:
    """What flattens, prunes or optimizes parameters needs them contiguous."""

    def network(self):
        torch.manual_seed(0)
        return ConvNetwork((3, 32, 32), 4, 5, 2, 10)

    def test_all_are_contiguous(self):
        assert all(p.is_contiguous() for p in self.network().parameters())

    def test_pruning(self, x):
        network = self.network().eval()
        prune.global_unstructured([(network.enc_network[0], "weight")], prune.L1Unstructured, amount=0.5)
        assert (network.enc_network[0].weight == 0).float().mean() == 0.5
        torch.testing.assert_close(
            lazy_orbit.run(network, x, reference.as_group("C4"), "border"), network(reference.orbit(x, "C4"))
        )

    def test_vectors_of_parameters(self):
        network = self.network()
        vector = nn.utils.parameters_to_vector(network.parameters())
        nn.utils.vector_to_parameters(2 * vector, network.parameters())
        assert torch.equal(nn.utils.parameters_to_vector(network.parameters()), 2 * vector)

    def test_lbfgs(self, x):
        canonicalizer = Canonicalizer(self.network().eval(), "C4")
        optimizer = torch.optim.LBFGS(canonicalizer.parameters(), max_iter=3)

        def closure():
            optimizer.zero_grad()
            loss = canonicalizer(x).prior_loss()
            loss.backward()
            return loss

        assert optimizer.step(closure) > closure()

    def test_weight_norm_and_orthogonal_parametrizations(self, x):
        network = self.network().eval()
        weight_norm(network.enc_network[0])
        parametrizations.orthogonal(network.final_fc[3])
        torch.testing.assert_close(
            lazy_orbit.run(network, x, reference.as_group("C4"), "border"),
            network(reference.orbit(x, "C4")),
            rtol=1e-4,
            atol=1e-5,
        )
