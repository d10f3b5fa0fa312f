"""Normalization and activation as one operation in training: what PyTorch's modules give, and nothing left out."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from equifast.nn import ConvNetwork
from equifast.nn.folding import run

from .backend import NAME
from .cases import DTYPES, assert_near_overall, assert_same, rand

pytestmark = pytest.mark.skipif(NAME != "cpu", reason="only the library for CPUs has the operation")

FUSED = torch.ops.equifast.batch_norm_act.default


class Calls(TorchDispatchMode):
    """Lists the operators that are called."""

    def __init__(self):
        super().__init__()
        self.listed = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.listed.append(func)
        return func(*args, **kwargs or {})


def calls_of(function, *args):
    with Calls() as calls:
        function(*args)
    return calls.listed.count(FUSED)


def step(layers, function, x):
    """The output, the gradients, and what the modules then hold."""
    x = x.clone().requires_grad_()
    y = function(x)
    leaves = [x, *(p for p in layers.parameters() if p.requires_grad)]
    grads = torch.autograd.grad(y, leaves, rand(*y.shape, dtype=y.dtype, seed=5))
    return y.detach(), grads, copy.deepcopy(layers.state_dict())


def assert_equal_steps(layers, x, steps=3, fused=None):
    """`run` and the modules' own forward, several batches one after the other."""
    ours, theirs = layers, copy.deepcopy(layers)
    expected_calls = sum(isinstance(layer, nn.BatchNorm2d) for layer in layers) if fused is None else fused
    assert calls_of(lambda: run(copy.deepcopy(layers), x.clone(), fold=False)) == expected_calls
    for i in range(steps):
        images = x + i
        mine = step(ours, lambda t: run(ours, t, fold=False), images)
        other = step(theirs, theirs, images)
        assert_near_overall(mine[0], other[0], 4)
        for a, b in zip(mine[1], other[1], strict=True):
            assert_near_overall(a, b, 8)
        for (name, a), (other_name, b) in zip(mine[2].items(), other[2].items(), strict=True):
            assert name == other_name and a.dtype == b.dtype
            assert_near_overall(a, b, 4, name) if a.is_floating_point() else assert_same(a, b)


NORMS = {
    "default": {},
    "cumulative": {"momentum": None},
    "no momentum": {"momentum": 0.0},
    "the last batch": {"momentum": 1.0},
    "no parameters": {"affine": False},
    "no statistics": {"track_running_stats": False},
    "large eps": {"eps": 0.5},
}
ACTIVATIONS = [nn.GELU(), nn.ReLU(inplace=True), nn.SiLU(), nn.Identity(), nn.GELU("tanh"), nn.Tanh()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_every_kind_of_normalization(name, activation):
    norm = nn.BatchNorm2d(5, **NORMS[name])
    if norm.affine:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    assert_equal_steps(nn.Sequential(norm, activation), rand(3, 5, 7, 6))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_every_dtype(approximate, dtype):
    layers = nn.Sequential(nn.BatchNorm2d(5), nn.GELU(approximate)).to(dtype)
    assert_equal_steps(layers, rand(3, 5, 17, 6, dtype=dtype))
    with Calls() as calls:
        run(layers, rand(3, 5, 17, 6, dtype=dtype), fold=False)
    assert FUSED in calls.listed and torch.ops.aten.gelu.default not in calls.listed


def without(**attributes):
    norm = nn.BatchNorm2d(5)
    for name, value in attributes.items():
        setattr(norm, name, value)
    return norm


@pytest.mark.parametrize(
    "norm",
    [
        without(num_batches_tracked=None),
        without(num_batches_tracked=None, momentum=None),
        without(running_mean=None, running_var=None),
        without(track_running_stats=False),
        nn.BatchNorm2d(5, track_running_stats=False).eval(),
        nn.BatchNorm2d(5).requires_grad_(False),
    ],
    ids=range(6),
)
def test_modules_in_unusual_states(norm):
    assert_equal_steps(nn.Sequential(norm, nn.ReLU()), rand(3, 5, 7, 6))


def test_running_statistics_go_on_as_they_are_in_eval_mode():
    layers = nn.Sequential(nn.BatchNorm2d(5), nn.GELU()).eval()
    assert_equal_steps(layers, rand(3, 5, 7, 6), fused=0)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_without_a_graph(momentum):
    ours = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=momentum), nn.GELU())
    theirs = copy.deepcopy(ours)
    with torch.no_grad():
        for seed in range(3):
            x = rand(2, 3, 9, 9, seed=seed)
            assert_near_overall(run(ours, x, fold=True), theirs(x), 4)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert_near_overall(a, b, 4, "buffer")


class Doubled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def doubled(norm):
    norm.forward = lambda x: 2 * nn.BatchNorm2d.forward(norm, x)
    return norm


def hooked(module, kind="register_forward_hook"):
    hooks = {
        "register_forward_hook": lambda module, args, output: 2 * output,
        "register_forward_pre_hook": lambda module, args: (2 * args[0],),
        "register_full_backward_hook": lambda module, grads, grad: (2 * grads[0],),
        "register_full_backward_pre_hook": lambda module, grad: (2 * grad[0],),
    }
    getattr(module, kind)(hooks[kind])
    return module


KINDS = ["register_forward_hook", "register_forward_pre_hook"]
KINDS += ["register_full_backward_hook", "register_full_backward_pre_hook"]


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_a_normalization_are_called(kind):
    assert_equal_steps(nn.Sequential(hooked(nn.BatchNorm2d(5), kind), nn.GELU()), rand(3, 5, 7, 6), fused=0)


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_an_activation_are_called(kind):
    assert_equal_steps(nn.Sequential(nn.BatchNorm2d(5), hooked(nn.GELU(), kind)), rand(3, 5, 7, 6), fused=1)


def test_hooks_of_all_modules_are_called():
    norm, activation = nn.BatchNorm2d(5), nn.GELU()
    x = rand(3, 5, 7, 6)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: 2 * output)
    try:
        assert_same(run([norm, activation], x, fold=False), activation(norm(x)))
    finally:
        handle.remove()


@pytest.mark.parametrize(
    "norm",
    [
        Doubled(5),
        doubled(nn.BatchNorm2d(5)),
        parametrizations.weight_norm(nn.BatchNorm2d(5), dim=None),
        nn.SyncBatchNorm(5),
    ],
    ids=["subclass", "own forward", "parametrized", "synchronized"],
)
def test_what_is_not_plain_is_called_as_it_is(norm):
    layers = nn.Sequential(norm, nn.GELU())
    x = rand(3, 5, 7, 6)
    assert calls_of(lambda: run(layers, x, fold=False)) == 0
    assert_same(run(layers, x, fold=False), layers(x))


@pytest.mark.parametrize(
    ("shape", "error"),
    [((1, 5, 1, 1), ValueError), ((3, 4, 7, 6), RuntimeError), ((5, 7, 6), ValueError)],
    ids=["one value", "other channels", "no batch"],
)
def test_errors_are_those_of_pytorch(shape, error):
    layers = nn.Sequential(nn.BatchNorm2d(5), nn.GELU())
    x = rand(*shape)
    with pytest.raises(error) as theirs:
        copy.deepcopy(layers)(x)
    with pytest.raises(error) as ours:
        run(layers, x, fold=False)
    assert str(ours.value) == str(theirs.value)


def test_an_empty_batch_is_pytorch_s():
    layers = nn.Sequential(nn.BatchNorm2d(5), nn.GELU())
    assert run(layers, rand(0, 5, 7, 6), fold=False).shape == (0, 5, 7, 6)
    assert layers[0].num_batches_tracked == 1 and layers[0].running_mean.eq(0).all()


def test_autocast_keeps_its_types():
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.GELU())
    twin, x = copy.deepcopy(layers), rand(4, 3, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = run(layers, x, fold=False), twin(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert_near_overall(ours, theirs)
    grads = [torch.autograd.grad(y.float().square().sum(), n.parameters()) for y, n in ((ours, layers), (theirs, twin))]
    for a, b in zip(*grads, strict=True):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0.05 * b.abs().max().item() + 0.5)


class TestTransforms:
    """Derivatives that only PyTorch's own operators have."""

    layers = nn.Sequential(nn.BatchNorm2d(5, track_running_stats=False), nn.GELU())

    def loss(self, x):
        return run(self.layers, x, fold=False).pow(3).sum()

    def plain(self, x):
        return self.layers(x).pow(3).sum()

    def test_forward_mode(self):
        x, tangent = rand(2, 5, 3, 4), rand(2, 5, 3, 4, seed=1)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, tangent)
            results = [torch.autograd.forward_ad.unpack_dual(f(dual)).tangent for f in (self.loss, self.plain)]
        assert_same(*results)

    @pytest.mark.parametrize(
        "transform", [torch.func.grad, torch.func.hessian, torch.func.vmap], ids=["grad", "hessian", "vmap"]
    )
    def test_functional_transforms(self, transform):
        x = rand(2, 2, 5, 2, 2) if transform is torch.func.vmap else rand(2, 5, 2, 2)
        assert_same(transform(self.loss)(x), transform(self.plain)(x))

    def test_double_backward(self):
        results, layers = [], copy.deepcopy(self.layers).double()
        for function in (lambda x: run(layers, x, fold=False), layers):
            x = rand(2, 5, 3, 4, dtype=torch.float64).requires_grad_()
            (grad,) = torch.autograd.grad(function(x).pow(3).sum(), x, create_graph=True)
            results.append(torch.autograd.grad(grad.square().sum(), x)[0])
        assert_near_overall(*results)

    def test_traced(self):
        layers = copy.deepcopy(self.layers).requires_grad_(False)
        traced = torch.jit.trace(lambda x: run(layers, x, fold=False), rand(2, 5, 3, 4))
        assert "batch_norm_act" not in str(traced.graph)


def network(**options):
    torch.manual_seed(0)
    made = ConvNetwork((3, 40, 40), 8, 5, 3, 16, **options)
    made.final_fc[1].p = 0.0
    return made


class Modules(nn.Sequential):
    """Layers that nothing runs together."""


def test_a_training_step_of_the_network_is_that_of_its_modules():
    ours, theirs = network(), network()
    theirs.enc_network = Modules(*theirs.enc_network)
    x = rand(6, 3, 40, 40)
    assert calls_of(copy.deepcopy(ours), x) == 3 and calls_of(copy.deepcopy(theirs), x) == 0
    for _ in range(2):
        mine, other = (step(n, n, x) for n in (ours, theirs))
        assert_near_overall(mine[0], other[0], 8)
        largest = max(grad.abs().max().item() for grad in other[1])
        for a, b in zip(mine[1], other[1], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-4 * largest)
        assert mine[2].keys() == other[2].keys()
        for a, b in zip(mine[2].values(), other[2].values(), strict=True):
            assert_near_overall(a, b, 8)


def test_a_layer_keeps_its_input_alone():
    """Of its own size: the input, and not what lies between normalization and activation."""
    layers, x = nn.Sequential(nn.BatchNorm2d(5), nn.GELU()), rand(3, 5, 7, 6).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        run(layers, x, fold=False)
    assert [t.data_ptr() for t in saved if t.numel() == x.numel()] == [x.data_ptr()]


@pytest.mark.parametrize("training", [True, False])
def test_a_compiler_gets_one_graph(training):
    torch._dynamo.reset()
    ours, x = network().train(training), rand(4, 3, 40, 40)
    theirs = copy.deepcopy(ours)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    mine, other = step(ours, compiled, x), step(theirs, theirs, x)
    assert_near_overall(mine[0], other[0], 8)
    for a, b in zip(mine[2].values(), other[2].values(), strict=True):
        assert_near_overall(a, b, 8)
