"""Whole canonicalizers on the device: equivariance to the last bit, compiled, twice the same."""

import pytest
import torch

import equifast
from equifast import act
from equifast.groups import as_group

from ..cases import assert_near, assert_same, exact_elements, rand
from .device import DEVICE, device_only, gpu, large, move

pytestmark = gpu


def tiny(group="C4", **options):
    torch.manual_seed(0)
    return equifast.nn.TinyCanonicalizer(3, group, channels=8, kernel_size=3, **options).to(DEVICE)


def ordinary(group="C4", size=24, **options):
    torch.manual_seed(0)
    network = equifast.nn.ConvNetwork((3, size, size), 8, 5, 2, 16)
    return equifast.nn.Canonicalizer(network, group, reference=torch.randn(16), **options).to(DEVICE)


MODULES = {"tiny": tiny, "ordinary": ordinary}


@pytest.mark.parametrize("group", ["C4", "D4", "C8"])
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_the_canonical_image_of_a_turned_one_is_the_same(make, group):
    group, module, x = as_group(group), make(group).eval(), move(rand(2, 3, 24, 24))
    with torch.no_grad():
        form = module(x)
        for h in exact_elements(group, (24, 24)):
            there = act(x, torch.full((2,), h, device=DEVICE), group=group)
            assert_same(module(there).image, form.image)


@device_only
@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_compiles_whole(make, training):
    torch._dynamo.reset()
    module, x = make("C8").train(training), move(rand(4, 3, 24, 24))
    if training:
        for part in module.modules():
            if isinstance(part, torch.nn.modules.dropout._DropoutNd):
                part.p = 0.0

    def outputs(run):
        form = run(x)
        loss = form.prior_loss() + form.contrastive_loss() + form.image.square().mean()
        grads = torch.autograd.grad(loss, list(module.parameters())) if training else ()
        return [form.image, form.activations, loss, *grads]

    with torch.set_grad_enabled(training):
        eager, compiled = outputs(module), outputs(torch.compile(module, fullgraph=True))
    for a, b in zip(compiled, eager, strict=True):
        assert_near(a, b, scale=20)


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_twice_the_same_bits(make):
    module, x = make("C8").train(), move(rand(3, 3, 24, 24))

    def step():
        torch.manual_seed(1)
        form = module(x)
        loss = form.prior_loss() + form.contrastive_loss(normalize=True) + form.image.square().sum()
        return [form.image, form.activations, *torch.autograd.grad(loss, list(module.parameters()))]

    for a, b in zip(step(), step(), strict=True):
        assert torch.equal(a, b)


@large
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype):
    module, x = ordinary("C8").eval(), move(rand(8, 3, 24, 24))
    with torch.no_grad():
        true = module(x).activations
        with torch.autocast("cuda", dtype):
            found = module(x).activations
    torch.testing.assert_close(found.float(), true, atol=5e-2, rtol=0)
