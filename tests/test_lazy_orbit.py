"""The lazy orbit: any network gives what it gives on the orbit, and its first convolution makes the orbit if it can."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from equifast import as_group, fuse_first_layer, lazy_orbit, orbit, reference
from equifast.geometry import ROW
from equifast.lazy_orbit import METADATA, LazyOrbit
from equifast.orbit_functions import Orbit

from .networks import FUSED, READING, READING_COMPILED, Net, ResNet, build


class Counted(TorchDispatchMode):
    """Counts calls of ops of this package by name. Several layers of an orbit, run together, are one `orbit_conv2d`."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "equifast":
            name = func._schema.name.partition("::")[2]
            of_orbit = name == "orbit_conv2d_direct" and len(args[5]) > ROW
            self.calls.append("orbit_conv2d" if of_orbit else name)
        return func(*args, **(kwargs or {}))


def expected_calls(name):
    """The ops that run one of the networks forward."""
    return ["orbit_conv2d"] * FUSED[name][1] if name in FUSED else ["orbit"]


def forward_calls(calls):
    return [call for call in calls if call in ("orbit", "orbit_conv2d")]


@pytest.fixture
def x():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def run(network, x, group="C4", padding_mode="border"):
    return lazy_orbit.run(network, x, as_group(group), padding_mode)


@pytest.mark.parametrize("group", ["C4", "D3"])
@pytest.mark.parametrize("name", [*FUSED, *READING])
def test_equals_the_network_on_the_orbit(name, group, x):
    network = build(name).eval()
    with torch.no_grad(), Counted() as counted:
        ours = run(network, x, group)
    # "a skip" and "its mean" read the orbit after a convolution has made it.
    assert counted.calls.count("orbit") == expected_calls(name).count("orbit")
    if name in FUSED:
        assert counted.calls.count("orbit_conv2d") == FUSED[name][1]
    with torch.no_grad():
        torch.testing.assert_close(ours, network(reference.orbit(x, group)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("images_too", [False, True])
@pytest.mark.parametrize("name", [*FUSED, *READING])
def test_training_gives_equal_gradients_and_statistics(name, images_too, x):
    results = []
    for lazy in (True, False):
        network, images = build(name).train(), x.clone().requires_grad_(images_too)
        torch.manual_seed(7)
        out = run(network, images, "D4") if lazy else network(reference.orbit(images, "D4"))
        out.square().mean().backward()
        grads = {key: p.grad for key, p in network.named_parameters() if p.requires_grad}
        grads["images"] = images.grad
        results.append(grads | dict(network.named_buffers()))
    for key, ours in results[0].items():
        theirs = results[1][key]
        if ours is None:
            assert theirs is None and key in ("images", "conv.bias")
            continue
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [*FUSED, *READING])
def test_compiles_into_one_graph_without_the_orbit(name, training, x):
    from torch._dynamo.backends.common import aot_autograd

    graphs = []

    def keep(module, inputs):
        module.graph.eliminate_dead_code()
        targets = [node.target for node in module.graph.nodes if node.op == "call_function"]
        named = [t for t in targets if getattr(t, "namespace", None) == "equifast"]
        graphs.append([t._schema.name.partition("::")[2] for t in named])
        return module

    torch._dynamo.reset()
    network = build(name).train(training)
    compiled = torch.compile(
        lambda x: run(network, x), fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep)
    )
    twin = build(name).train(training)
    with torch.set_grad_enabled(training):
        for function in (compiled, lambda x: twin(reference.orbit(x, "C4"))):
            function(x)  # compiles, which may draw random numbers
        torch.manual_seed(3)
        ours = compiled(x)
        torch.manual_seed(3)
        torch.testing.assert_close(ours, twin(reference.orbit(x, "C4")), rtol=1e-4, atol=1e-4)
    calls = forward_calls(graphs[0])
    if name in FUSED and training not in READING_COMPILED.get(name, ()):
        assert calls == expected_calls(name)
    else:
        assert calls.count("orbit") == 1


@pytest.mark.parametrize("name", ["ConvNetwork", "ResNet", "ViT", "normalizes", "its mean"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_and_in_narrow_types(name, dtype, x):
    network = build(name).eval()
    with torch.no_grad():
        wide = network(reference.orbit(x, "C4"))
        tolerance = {"rtol": 0.05, "atol": 0.05 * wide.abs().max().item()}
        with torch.autocast("cpu", dtype):
            ours, theirs = run(network, x), network(orbit(x, "C4"))
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours.float(), wide, **tolerance)
        narrow = copy.deepcopy(network).to(dtype)
        if name != "normalizes":  # its constants are float32, and so would be what it gives the convolution
            torch.testing.assert_close(run(narrow, x.to(dtype)).float(), wide, **tolerance)


@pytest.mark.parametrize("name", ["ConvNetwork", "ResNet", "normalizes in place", "clamped in place"])
def test_memory_formats_and_strides_of_images_and_weights(name, x):
    network = build(name).eval()
    with torch.no_grad():
        expected = network(reference.orbit(x, "C4"))
        strided = torch.rand(6, 3, 32, 64)[::2, :, :, ::2].copy_(x)
        for images in (x, strided, x.contiguous(memory_format=torch.channels_last)):
            for model in (network, copy.deepcopy(network).to(memory_format=torch.channels_last)):
                torch.testing.assert_close(run(model, images), expected, rtol=1e-4, atol=1e-5)


def test_empty_batches_and_images_that_are_not_square():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for shape in ((0, 3, 16, 16), (2, 3, 12, 17)):
        for group in ("C4", "C8", "D2"):
            x = torch.rand(shape)
            torch.testing.assert_close(run(network, x, group), network(reference.orbit(x, group)))


def test_padding_with_zeros_reaches_the_convolution_and_keeps_sums_where_they_are(x):
    for name in ("ResNet", "normalizes", "normalizes in place", "scales"):
        network = build(name).eval()
        for group in ("C4", "C8"):
            with torch.no_grad(), Counted() as counted:
                ours = run(network, x, group, "zeros")
                expected = network(reference.orbit(x, group, padding_mode="zeros"))
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
            blended = group == "C8" and name != "ResNet"
            assert ("orbit" in counted.calls) == blended


def other_code(kind, network):
    """The network as code that never calls Python functions of torch on its input, or calls others."""
    example = torch.rand(12, 3, 32, 32)
    if kind == "scripted":
        return torch.jit.script(network)
    if kind == "traced":
        return torch.jit.trace(network, example)
    if kind == "exported":
        return torch.export.export(network, (example,)).module()
    if kind == "symbolic":
        return torch.fx.symbolic_trace(network)
    torch._dynamo.reset()
    return torch.compile(network, backend="aot_eager")


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("kind", ["scripted", "traced", "exported", "symbolic", "compiled"])
def test_code_that_is_not_eager_python(kind, hidden, x):
    """``hidden``: within a function, where nothing shows that the network is compiled."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    other = other_code(kind, network)
    grads = []
    for lazy in (True, False):
        images = x.clone().requires_grad_()
        network.zero_grad(), other.zero_grad()
        out = run((lambda rows: other(rows)) if hidden else other, images) if lazy else network(orbit(images, "C4"))
        out.square().sum().backward()
        owner = other if lazy and kind in ("scripted", "traced", "exported", "symbolic") else network
        grads.append([out, images.grad, *(p.grad.clone() for p in owner.parameters())])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class TestTheTensorItself:
    @pytest.fixture(params=[False, True], ids=["plain", "differentiable"])
    def lazy(self, x, request):
        return LazyOrbit.of(Orbit(x.requires_grad_(request.param), as_group("D4"), "border"))

    @pytest.mark.parametrize("read", METADATA, ids=lambda f: getattr(getattr(f, "__self__", f), "__name__", str(f)))
    def test_metadata_is_that_of_the_orbit(self, lazy, x, read):
        if read in METADATA:
            assert read(lazy) == read(orbit(x, "D4")) and lazy._rows is None

    def test_what_reads_it_gets_the_orbit_and_it_is_made_once(self, lazy, x):
        rows = orbit(x, "D4")
        with Counted() as counted:
            for read in (
                lambda t: t.sum(),
                lambda t: t[1:3, :, ::2],
                lambda t: torch.cat((t, t.flip(3))),
                lambda t: F.interpolate(t, (8, 8)),
                lambda t: torch.stack([row for row in t]),
                lambda t: t.detach(),
                lambda t: copy.deepcopy(t.detach()),
                lambda t: F.conv2d(t, torch.ones(2, 3, 3, 3)),
                lambda t: t * t,
                lambda t: 2 * t,
            ):
                torch.testing.assert_close(read(lazy), read(rows))
        assert counted.calls == ["orbit"]
        assert repr(lazy) == repr(lazy.rows()) and type(lazy.rows()) is torch.Tensor

    def test_made_without_a_graph_it_has_one_later(self, x):
        lazy = LazyOrbit.of(Orbit(x.requires_grad_(), as_group("C4"), "border"))
        with torch.no_grad():
            assert not lazy.mean().requires_grad
        (lazy.sum() * 2).backward()
        torch.testing.assert_close(x.grad, torch.full_like(x, 8.0))

    def test_images_changed_before_it_is_read_are_an_error(self, x):
        lazy = LazyOrbit.of(Orbit(x, as_group("C4"), "border"))
        x.add_(1)
        with pytest.raises(RuntimeError, match="read after x had been changed in place"):
            lazy.mean()

    def test_in_inference_mode(self, x):
        with torch.inference_mode():
            for images in (x, x.clone()):
                lazy = LazyOrbit.of(Orbit(images, as_group("C4"), "border"))
                assert torch.equal(lazy.mean(), orbit(images, "C4").mean())


class TestFuseFirstLayer:
    def test_is_a_module_around_the_network(self, x):
        network = build("ResNet").eval()
        fused = fuse_first_layer(network, "C4")
        assert [id(p) for p in fused.parameters()] == [id(p) for p in network.parameters()]
        assert list(fused.state_dict()) == [f"network.{key}" for key in network.state_dict()]
        with Counted() as counted:
            torch.testing.assert_close(fused(x), network(orbit(x, "C4")), rtol=1e-4, atol=1e-5)
        assert counted.calls[0] == "orbit_conv2d"
        assert "C4, padding_mode=border" in repr(fused)

    def test_copies_and_files(self, x):
        fused = fuse_first_layer(build("ResNet").eval(), "C4")
        file = io.BytesIO()
        torch.save(fused, file)
        file.seek(0)
        for twin in (copy.deepcopy(fused), torch.load(file, weights_only=False)):
            assert torch.equal(twin(x), fused(x))
            twin.network.conv1.weight.data.add_(1)
            assert not torch.equal(twin(x), fused(x))

    def test_what_is_wrong_is_named(self, x):
        with pytest.raises(TypeError, match="network: expected a callable, got int"):
            fuse_first_layer(3, "C4")
        with pytest.raises(ValueError, match="network: makes the orbit of C4 already"):
            fuse_first_layer(fuse_first_layer(ResNet(), "C4"), "C4")
        with pytest.raises(ValueError, match="padding_mode: .*wrap"):
            fuse_first_layer(ResNet(), "C4", padding_mode="wrap")
        with pytest.raises(ValueError, match=r"x: expected \(B, C, H, W\)"):
            fuse_first_layer(ResNet(), "C4")(x[0])

    def test_errors_are_those_of_the_network(self, x):
        """A convolution that doesn't fit its input says so as it does without the lazy orbit."""
        for conv in (nn.Conv2d(4, 8, 3), nn.Conv2d(3, 8, 40), nn.Conv2d(3, 8, 3).double()):
            with pytest.raises(RuntimeError) as ours:
                fuse_first_layer(Net(conv=conv), "C4")(x)
            with pytest.raises(RuntimeError) as theirs:
                conv(orbit(x, "C4"))
            assert str(ours.value) == str(theirs.value)

    def test_any_output(self, x):
        def features(rows):
            y = F.conv2d(rows, torch.ones(2, 3, 3, 3))
            return {"maps": [y, F.relu(y)], "rows": rows.shape[0]}

        out = fuse_first_layer(features, "C4")(x)
        assert out["rows"] == 12 and torch.equal(out["maps"][1], F.relu(out["maps"][0]))
