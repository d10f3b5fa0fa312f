"""Gradients are those of a plain call in every mode of PyTorch, for every kind of canonicalizer."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from equifast import ops
from equifast.estimators import ESTIMATORS

from ..cases import assert_near_overall, rand
from .modules import build, cases, learned, loss_of


def gradients(module, x, run=None):
    """The loss, and its gradients by x and by each parameter that has one; ``run`` stands for the module."""
    x = x.clone().requires_grad_()
    parameters = [p for p in module.parameters() if p.requires_grad]
    torch.manual_seed(7)  # for gumbel's noise
    loss = loss_of((module if run is None else run)(x))
    return loss.detach(), *torch.autograd.grad(loss, [x, *parameters], allow_unused=True)


def functional(module, x, transform=torch.func.grad_and_value):
    """By `torch.func`; ``transform`` is like ``grad_and_value``."""
    names, buffers = [n for n, p in module.named_parameters() if p.requires_grad], dict(module.named_buffers())

    torch.manual_seed(7)

    def loss(x, *parameters):
        state = buffers | dict(zip(names, parameters, strict=True))
        return loss_of(torch.func.functional_call(module, state, (x,)))

    leaves = (x, *(dict(module.named_parameters())[n] for n in names))
    found, value = transform(loss, argnums=tuple(range(len(leaves))))(*leaves)
    return value, *found


def compiled_functional(module, x):
    """By compiled code that calls `torch.func`."""

    def transform(loss, argnums):
        return torch.compile(torch.func.grad_and_value(loss, argnums), backend="aot_eager", fullgraph=True)

    return functional(module, x, transform)


def with_hooks(module, x):
    with torch.autograd.graph.save_on_cpu():
        return gradients(module, x)


def several_at_once(module, x):
    """Each thread differentiates its own call."""
    if module.training and getattr(module, "estimator", "") == "gumbel":
        return gradients(module, x)  # threads would share the generator
    with ThreadPoolExecutor(4) as pool:
        return [future.result() for future in [pool.submit(gradients, module, x) for _ in range(4)]][-1]


#: Ways to differentiate, each a function of the module and x.
DIFFERENTIATIONS = {
    "compiled": lambda module, x: gradients(module, x, torch.compile(module, backend="aot_eager", fullgraph=True)),
    "checkpointed": lambda module, x: gradients(module, x, lambda x: checkpoint(module, x, use_reentrant=False)),
    "torch.func.grad": functional,
    "compiled torch.func.grad": compiled_functional,
    "hooks of saved tensors": with_hooks,
    "threads": several_at_once,
}


@cases(DIFFERENTIATIONS, "gradients ")
def test_gradients_are_those_of_a_plain_call(name, mode):
    module, x = build(name)
    expected, found = gradients(module, x), DIFFERENTIATIONS[mode](module, x)
    for ours, theirs in zip(found, expected, strict=True):
        # torch.func gives zeros where autograd gives nothing.
        if theirs is None:
            assert ours is None or not ours.any()
        else:
            assert_near_overall(ours, theirs, 10)
    assert expected[1] is not None and expected[1].any()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_forward_mode_is_the_transpose_of_backward(estimator, training):
    """Of a loss: its tangent along u is the inner product of its gradient with u, for images and scores."""
    module = learned("C8", estimator=estimator)().double().eval()
    module.training = training  # of the module itself, so that gumbel draws; layers stay in eval mode
    x, u = rand(2, 3, 16, 16, dtype=torch.float64), rand(2, 3, 16, 16, dtype=torch.float64, seed=1)
    _, by_x, *_ = gradients(module, x)

    def loss(x):
        torch.manual_seed(7)
        return loss_of(module(x))

    _, tangent = torch.func.jvp(loss, (x,), (u,))
    assert_near_overall(tangent, (by_x * u).sum(), 10)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(loss(forward_ad.make_dual(x, u)))
        assert_near_overall(dual.tangent, tangent, 10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_of_each_sample_are_those_of_a_loop(estimator):
    """`vmap` of `grad`, and the rows of `jacrev`."""
    torch.manual_seed(0)
    module, x = learned("D3", estimator=estimator)().double().eval(), rand(3, 3, 16, 16, dtype=torch.float64)
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())

    def loss(parameters, image):
        return loss_of(torch.func.functional_call(module, (parameters, buffers), (image[None],)))

    batched = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    rows = torch.func.jacrev(lambda p: torch.stack([loss(p, image) for image in x]))(parameters)
    for k, image in enumerate(x):
        single = torch.autograd.grad(loss(parameters, image), list(parameters.values()), allow_unused=True)
        for name, expected in zip(parameters, single, strict=True):
            for found in (batched[name][k], rows[name][k]):
                assert_near_overall(found, torch.zeros_like(found) if expected is None else expected, 10)


#: Layers by how their weight gradient is computed: by our own kernel, as patches in pairs and one by one, by oneDNN.
LAYERS = {
    "direct": ((9, 3, 20, 20), (8, 3, 5, 5), {"stride": 2}),
    "patches": ((3, 3, 32, 32), (16, 3, 8, 8), {"stride": 8}),
    "many channels": ((4, 32, 20, 20), (32, 32, 3, 3), {}),
    "dilated": ((4, 20, 21, 21), (24, 20, 5, 5), {"dilation": 2}),
}


@pytest.mark.parametrize("op", ["orbit_conv2d", "orbit_conv2d_pool"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_weight_gradients_are_the_same_for_any_number_of_threads(layer, dtype, op):
    """In deterministic mode, which the fixture of all tests turns on."""
    x_shape, weight_shape, options = LAYERS[layer]
    x, weight = rand(*x_shape, dtype=dtype), rand(*weight_shape, dtype=dtype, seed=1)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)  # another fixture puts it back
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_(), torch.zeros_like(weight[:, 0, 0, 0])]
        leaves[2].requires_grad_()
        y = getattr(ops, op)(*leaves, group="C4", **options)
        found.append(torch.autograd.grad(y, leaves[1:], rand(*y.shape, dtype=dtype, seed=2)))
        found[-1] += torch.autograd.grad(y := getattr(ops, op)(*leaves, group="C4", **options), leaves, y.detach())
        assert torch.get_num_threads() == threads
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert torch.equal(a, b)
