"""In inference the pipeline runs a network on a few whole orbits at a time, where nothing can tell."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from equifast import canonicalize
from equifast.nn import fuse_first_layer
from equifast.orbit_vectors import CHUNK_BYTES


class Recorder(nn.Module):
    """Notes how many rows come at a time."""

    def __init__(self, network):
        super().__init__()
        self.network, self.rows = network, []

    def forward(self, x):
        self.rows.append(x.shape[0])
        return self.network(x)


class Pooled(TorchDispatchMode):
    """Notes how many rows are pooled at a time."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._adaptive_avg_pool2d.default:
            self.rows.append(args[0].shape[0])
        return func(*args, **(kwargs or {}))


class TestChunks:
    @pytest.fixture
    def big(self):
        """Seven images, of whose orbits of C4 two and a half fit a chunk."""
        side = int((CHUNK_BYTES / (4 * 4 * 2.5)) ** 0.5)
        return torch.rand(7, 1, side, side, generator=torch.Generator().manual_seed(0))

    @pytest.fixture
    def network(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()).eval()

    def record(self, big, network, *, grad=False):
        with torch.set_grad_enabled(grad), Pooled() as pooled:
            form = canonicalize(big, network, torch.ones(32), group="C4")
        return pooled.rows, form

    def test_inference_runs_in_chunks_of_whole_orbits_and_agrees(self, big, network):
        rows, form = self.record(big, network)
        assert rows == [8, 8, 8, 4]
        whole, expected = self.record(big, network, grad=True)
        assert whole == [28]
        torch.testing.assert_close(form.vectors, expected.vectors.detach(), rtol=1e-4, atol=1e-6)
        assert torch.equal(form.element, expected.element)

    def test_a_network_that_keeps_little_gets_larger_chunks(self, big, network):
        network.keeps_little = lambda images: images is big
        assert self.record(big, network)[0] == [28]

    def test_frozen_networks_are_chunked_with_gradients_enabled(self, big, network):
        network.requires_grad_(False)
        assert self.record(big, network, grad=True)[0] == [8, 8, 8, 4]
        assert self.record(big.requires_grad_(), network, grad=True)[0] == [28]

    def test_networks_that_make_the_orbit_are_chunked_too(self, big, network):
        assert self.record(big, fuse_first_layer(network, "C4"))[0] == [8, 8, 8, 4]

    @pytest.mark.parametrize("why", ["training", "batch statistics", "a function", "a user's class", "patched"])
    def test_what_may_see_its_batch_gets_the_whole_orbit(self, big, network, why):
        if why == "training":
            network.train()
        elif why == "batch statistics":
            network.append(nn.BatchNorm1d(32, track_running_stats=False)).eval()
        elif why == "patched":
            network[1].forward = lambda rows: rows.relu()
        elif why == "a user's class":
            network = Recorder(network).eval()
        assert self.record(big, (lambda rows: network(rows)) if why == "a function" else network)[0] == [28]

    @pytest.mark.parametrize("kind", ["forward", "forward_pre", "global"])
    def test_hooks_run_once_and_see_the_whole_orbit(self, big, network, kind):
        seen = []
        if kind == "forward":
            handle = network[1].register_forward_hook(lambda module, args, out: seen.append((module, args[0].shape[0])))
        elif kind == "forward_pre":
            handle = network[1].register_forward_pre_hook(lambda module, args: seen.append((module, args[0].shape[0])))
        else:
            handle = nn.modules.module.register_module_forward_hook(
                lambda module, args, out: seen.append((module, args[0].shape[0])) if module is network[1] else None
            )
        with torch.no_grad():
            canonicalize(big, network, torch.ones(32), group="C4")
        handle.remove()
        assert seen == [(network[1], 28)]
