"""Which GPU backend serves a call, and what the dispatcher is given. No GPU is needed."""

from types import SimpleNamespace

import pytest
import torch

from equifast import kernels
from equifast.backends import selection
from equifast.dtypes import DTYPES
from equifast.ops import registry
from equifast.schemas import SCHEMAS

BOTH = ("cuda", "triton")


@pytest.fixture
def tf32(monkeypatch):
    def allow(yes):
        monkeypatch.setattr(selection, "allows_tf32", lambda dtype: yes and dtype == torch.float32)

    allow(False)
    return allow


def layer(channels, dtype=torch.float32):
    """Images, and the weight of a layer."""
    x = torch.empty(2, 3, 32, 32, dtype=dtype, device="meta")
    return x, torch.empty(channels, 3, 7, 7, dtype=dtype, device="meta")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_wide_layers_on_matrix_units_go_to_triton(tf32, dtype):
    for allowed in (False, True):
        tf32(allowed)
        matrix_units = dtype.itemsize == 2 or (allowed and dtype == torch.float32)
        for channels in (16, 64, 65, 768):
            expected = matrix_units and channels > 64
            assert selection.prefers_triton(layer(channels, dtype)[1]) == expected


def test_the_files_of_the_kernels_are_found():
    assert kernels.FILES["orbit"] == "orbit" and "orbit_backward" not in kernels.FILES
    assert kernels.FILES["orbit_conv2d_backward"] == "orbit_conv2d_backward"
    assert kernels.FILES["orbit_scores_backward"] == "orbit_scores"
    assert "orbit_conv2d_direct" not in kernels.FILES and set(kernels.FILES) < set(SCHEMAS)


@pytest.fixture
def registered(monkeypatch, tf32):
    """Registers an op of which both backends say who they are; returns what CUDA tensors then run on."""
    monkeypatch.setattr(kernels, "load", lambda name: lambda *args: ("triton", name, args))

    class Library:
        """A library without the pooled convolution."""

        def __getattr__(self, name):
            if name not in SCHEMAS or "pool" in name:
                raise AttributeError(name)
            last = "tf32" if name.startswith("orbit_conv2d") else "adjoint"

            def default(*args):
                return "cuda", name, args

            default._schema = SimpleNamespace(arguments=[SimpleNamespace(name=last)])
            return SimpleNamespace(default=default)

    monkeypatch.setattr(torch.ops, "equifast_cuda", Library(), raising=False)
    monkeypatch.setitem(registry.CHOSEN, "cuda", "cuda")
    monkeypatch.setitem(registry.CONTENDERS, "cuda", BOTH)
    monkeypatch.setattr(registry, "FALLBACKS", {})
    for name in ("register_fake", "register_autograd"):
        monkeypatch.setattr(torch.library, name, lambda *args, **options: None)

    def register(name, **options):
        given = {}
        library = SimpleNamespace(impl=lambda name, function, key: given.update({key: function}))
        monkeypatch.setattr(registry, "library", library)
        registry.register(name, eager=None, fake=None, **options)
        return given["CUDA"]

    return register


def test_the_dispatcher_gets_what_suits_the_call(registered):
    call = registered("orbit_conv2d", prefers_triton=lambda x, weight: selection.prefers_triton(weight))
    assert call(*layer(768, torch.bfloat16))[:2] == ("triton", "orbit_conv2d")
    assert call(*layer(64, torch.bfloat16))[:2] == call(*layer(768))[:2] == ("cuda", "orbit_conv2d")
    assert registered("orbit")(*layer(768, torch.bfloat16))[0] == "cuda"


def test_an_op_that_one_backend_lacks_runs_on_the_other(registered):
    assert registered("orbit_conv2d_pool")(*layer(16))[0] == "triton"


def test_backends_and_ops_without_kernels_have_no_implementation(registered):
    assert set(registry.implementations("orbit", BOTH)) == {"cuda", "triton"}
    assert set(registry.implementations("orbit", ("cuda",))) == {"cuda"}
    assert set(registry.implementations("orbit_conv2d_pool", BOTH)) == {"triton"}
    assert registry.implementations("orbit_conv2d_pool", ("cuda",)) == {}
    assert registry.implementations("orbit", ("cpu",)) == registry.implementations("orbit", ()) == {}


@pytest.mark.parametrize("allowed", [False, True])
def test_cuda_layers_are_told_of_tf32(registered, tf32, allowed):
    tf32(allowed)
    (run,) = registry.implementations("orbit_conv2d", ("cuda",)).values()
    assert run(*layer(16))[2][-1] is allowed
    (run,) = registry.implementations("orbit", ("cuda",)).values()
    assert len(run(*layer(16))[2]) == 2
