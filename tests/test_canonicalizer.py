"""`Canonicalizer` follows its network whatever is done to it, runs it as it stands, and builds at once."""

import copy
import random
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm

from equifast import canonicalize, reference
from equifast.nn import Canonicalizer, ConvNetwork

from .networks import Lora, Net, ResNet, build
from .test_lazy_orbit import Counted


@pytest.fixture
def x():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def vectors_by_definition(network, x, group="C4"):
    """What ``network`` makes of the orbit itself: (B, E, d)."""
    rows = network(reference.orbit(x, group))
    return rows.unflatten(0, (-1, x.shape[0])).transpose(0, 1)


def _replace(c):
    torch.manual_seed(5)
    c.network = Net()


def _set_submodule(c):
    torch.manual_seed(5)
    c.set_submodule("network.conv1", nn.Conv2d(3, 8, 5, 2, bias=False))


def _compile(c):
    torch._dynamo.reset()
    c.network = torch.compile(c.network, backend="aot_eager")


def _compile_in_place(c):
    torch._dynamo.reset()
    c.network.compile(backend="aot_eager")


def _quantize(c):
    c.network = torch.ao.quantization.quantize_dynamic(c.network.cpu(), {nn.Linear}, dtype=torch.qint8)


def _patch_forward(c):
    """As wrappers for mixed precision and offloading do it."""
    original = c.network.conv1.forward
    c.network.conv1.forward = lambda rows: original(rows) * 2


def _lora(c):
    c.network.conv1 = nn.Sequential(Lora(), nn.Conv2d(8, 8, 1))


def _parametrize(c):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(c.network.conv1, "weight", Double())


#: What users do to a network that is in a canonicalizer already.
EDITS = {
    "replaced": _replace,
    "a submodule replaced": _set_submodule,
    "another head": lambda c: setattr(c.network, "fc", nn.Identity()),
    "compiled": _compile,
    "compiled in place": _compile_in_place,
    "quantized": _quantize,
    "scripted": lambda c: setattr(c, "network", torch.jit.script(c.network)),
    "another stride": lambda c: setattr(c.network.conv1, "stride", (1, 1)),
    "a hook on the first layer": lambda c: c.network.conv1.register_forward_hook(lambda m, args, out: out + 1),
    "a pre-hook on the first layer": lambda c: c.network.conv1.register_forward_pre_hook(lambda m, args: args[0] * 2),
    "a pre-hook on the network": lambda c: c.network.register_forward_pre_hook(lambda m, args: args[0].clamp(max=0.5)),
    "a patched forward": _patch_forward,
    "weight norm": lambda c: weight_norm(c.network.conv1),
    "parametrized": _parametrize,
    "pruned": lambda c: prune.l1_unstructured(c.network.conv1, "weight", 0.5),
    "LoRA": _lora,
    "synchronized norms": lambda c: setattr(c, "network", nn.SyncBatchNorm.convert_sync_batchnorm(c.network)),
    "other weights": lambda c: c.network.load_state_dict(build("ResNet").double().state_dict(), assign=True),
    "another type": lambda c: c.network.double(),
    "new parameters": lambda c: setattr(c.network.conv1, "weight", nn.Parameter(torch.randn(8, 3, 7, 7))),
    "reset in place": lambda c: c.network.conv1.reset_parameters(),
    "another mode": lambda c: setattr(c.network, "training", True),
}


@pytest.mark.parametrize("called_before", [False, True])
@pytest.mark.parametrize("name", EDITS)
def test_follows_what_is_done_to_its_network(name, called_before, x):
    canonicalizer = Canonicalizer(build("ResNet").eval(), "C4", score=lambda vectors: vectors[:, 0].float())
    with torch.no_grad():
        if called_before:
            canonicalizer(x)
        EDITS[name](canonicalizer)
        x = x.to(next(canonicalizer.network.parameters()).dtype)
        torch.manual_seed(3)
        ours = canonicalizer(x).vectors
        torch.manual_seed(3)
        torch.testing.assert_close(ours, vectors_by_definition(canonicalizer.network, x), rtol=1e-4, atol=1e-4)


@pytest.fixture
def process_group():
    """A process group of one process, for the wrappers that need one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS = {
    "ddp": nn.parallel.DistributedDataParallel,
    "fsdp": lambda network: FullyShardedDataParallel(network, use_orig_params=True, device_id=torch.device("cpu")),
    "fully_shard": lambda network: fully_shard(network, mesh=init_device_mesh("cpu", (1,))),
    "ema": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_train_as_the_network_does(wrapper, x, process_group):
    grads = []
    for wrapped in (True, False):
        canonicalizer = Canonicalizer(build("ViT").train(), "C4", reference=torch.ones(10))
        if wrapped:
            canonicalizer.network = WRAPPERS[wrapper](canonicalizer.network)
        with Counted() as counted:
            form = canonicalizer(x)
        assert "orbit" not in counted.calls
        (form.image.square().mean() + form.prior_loss() + form.contrastive_loss()).backward()
        parameters = [p for p in canonicalizer.parameters() if p.grad is not None]
        grads.append([p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in parameters])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class Stateful(nn.Module):
    """Keeps an auxiliary loss, a counter, a running average and its input's size in ``forward``."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.register_buffer("average", torch.zeros(8))
        self.calls, self.auxiliary, self.shapes = 0, None, []

    def forward(self, x):
        y = self.conv(x)
        self.calls += 1
        self.auxiliary = y.square().mean()
        self.shapes.append(tuple(x.shape))
        with torch.no_grad():
            self.average.lerp_(y.mean((0, 2, 3)), 0.5)
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize("training", [False, True])
def test_state_written_in_forward_is_the_networks_own(training):
    torch.manual_seed(0)
    x = torch.rand(40, 3, 64, 64)
    network, twin = Stateful().train(training), None
    twin = copy.deepcopy(network)
    canonicalizer = Canonicalizer(network, "C8", vector_size=5).train(training)
    with torch.set_grad_enabled(training):
        for _ in range(2):
            canonicalizer(x)
            twin(reference.orbit(x, "C8"))
    assert canonicalizer.network is network and network.calls == 2 and network.shapes == [(320, 3, 64, 64)] * 2
    torch.testing.assert_close(network.average, twin.average)
    torch.testing.assert_close(network.auxiliary, twin.auxiliary)
    if training:
        network.auxiliary.backward()
        twin.auxiliary.backward()
        torch.testing.assert_close(network.conv.weight.grad, twin.conv.weight.grad, rtol=1e-4, atol=1e-5)


def test_hooks_get_the_modules_themselves(x):
    network = build("ResNet").eval()
    names, seen = {module: name for name, module in network.named_modules()}, []
    for module in network.modules():
        module.register_forward_hook(lambda module, args, out: seen.append((names[module], args[0].shape[0])))
    with torch.no_grad():
        Canonicalizer(network, "C4", vector_size=10)(x)
    assert {name for name, _ in seen} >= {"", "conv1", "bn1", "relu", "fc"} and {rows for _, rows in seen} == {12}


@pytest.mark.parametrize("write", ["add_", "clamp_", "__setitem__", "relu"])
@pytest.mark.parametrize("group", ["C1", "C4"])
def test_a_network_that_writes_to_its_input_leaves_the_images_alone(write, group, x):
    def read(net, rows):
        if write == "__setitem__":
            rows[:, 0] = 0
        elif write == "relu":
            rows = F.relu(rows, inplace=True)
        else:
            getattr(rows, write)(0.5)
        return net.conv(rows)

    torch.manual_seed(0)
    network, before = Net(read), x.clone()
    with torch.no_grad():
        ours = Canonicalizer(network, group, vector_size=10)(x).vectors
        assert torch.equal(x, before)
        torch.testing.assert_close(ours, vectors_by_definition(network, x, group))


def test_branches_see_the_mode_and_the_size_of_each_call():
    def read(net, rows):
        y = net.conv(rows)
        y = 2 * y if net.training else y
        return F.adaptive_avg_pool2d(y if rows.shape[-1] > 32 else -y, 8)

    torch.manual_seed(0)
    network = Net(read)
    canonicalizer = Canonicalizer(network, "C4", vector_size=10)
    for size in (32, 48, 32):
        for training in (False, True):
            canonicalizer.train(training)
            x = torch.rand(2, 3, size, size)
            torch.testing.assert_close(canonicalizer(x).vectors, vectors_by_definition(network, x))


class TestConstruction:
    class Watched(ResNet):
        def forward(self, x):
            raise AssertionError("run at construction")

    def test_runs_nothing_and_touches_nothing(self):
        network = self.Watched()
        network.bn1.eval()
        before = copy.deepcopy(network.state_dict())
        modes = [module.training for module in network.modules()]
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        Canonicalizer(network, "C8")
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]
        assert [module.training for module in network.modules()] == modes
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    def test_takes_less_than_ten_milliseconds(self):
        network = nn.Sequential(*[nn.Conv2d(64, 64, 3) for _ in range(200)])
        times = []
        for _ in range(5):
            start = time.perf_counter()
            Canonicalizer(network, "C4")
            times.append(time.perf_counter() - start)
        assert min(times) < 0.01

    def test_under_a_default_device(self):
        with torch.device("meta"):
            assert Canonicalizer(ConvNetwork((3, 20, 20), 4, 5, 2, 8), "C4").reference.is_meta

    def test_lazy_layers_wait_for_the_first_call(self, x):
        network = nn.Sequential(nn.LazyConv2d(4, 5, 3), nn.Flatten(), nn.LazyLinear(6))
        canonicalizer = Canonicalizer(network, "C4")
        assert isinstance(network[0].weight, nn.UninitializedParameter)
        assert canonicalizer(x).vectors.shape == (3, 4, 6) and canonicalizer.reference.shape == (6,)


@pytest.mark.parametrize("how", ["compile", "export"])
def test_what_is_compiled_or_exported_has_the_edited_network(how, x):
    canonicalizer = Canonicalizer(build("ResNet").eval(), "C4", vector_size=10).eval()
    canonicalizer.network.fc = nn.Linear(8, 10)
    torch._dynamo.reset()
    if how == "compile":
        run = torch.compile(canonicalizer, fullgraph=True, backend="aot_eager")
    else:
        run = torch.export.export(canonicalizer, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(
            run(x).vectors, vectors_by_definition(canonicalizer.network, x), rtol=1e-4, atol=1e-4
        )


class Output:
    """As models of transformers return it."""

    def __init__(self, **values):
        self.__dict__.update(values)


@pytest.mark.parametrize("field", ["logits", "pooler_output"])
def test_vectors_in_an_output_object(field, x):
    inner = build("bare")
    form = canonicalize(x, lambda rows: Output(other=None, **{field: inner(rows)}), torch.ones(10), group="C4")
    torch.testing.assert_close(form.vectors, vectors_by_definition(inner, x))
    with pytest.raises(ValueError, match=r"network: expected to return \(12, d\), got Output"):
        canonicalize(x, lambda rows: Output(hidden=inner(rows)), torch.ones(10), group="C4")
