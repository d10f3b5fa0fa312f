"""Two processes under FSDP2 (`fully_shard`) train as one process does on the whole batch."""

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from .models import (
    CANONICALIZERS,
    Pipeline,
    assert_alike,
    assert_same_training,
    batches,
    gradients,
    loss_of,
    train,
)


def _layers(model: nn.Module) -> list[nn.Module]:
    """Each layer that is called as a module. An attention reads the weights of its own layers itself."""
    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    within = {child for attention in attentions for child in attention.children()}
    plain = [module for module in model.modules() if not list(module.children()) and list(module.parameters())]
    return attentions + [module for module in plain if module not in within]


#: What is a unit by itself; all else is the unit of the root.
UNITS = {
    "root": lambda model: [],
    "canonicalizer": lambda model: [model.canonicalizer],
    "network": lambda model: [model.canonicalizer.network],
    "both": lambda model: [model.canonicalizer.network, model.canonicalizer],
    "layers": _layers,
}


def sharded(name, units, dtype):
    mesh = init_device_mesh("cpu", (2,))
    model = Pipeline(name, dtype)
    for unit in UNITS[units](model):
        fully_shard(unit, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def sharded_training(name, units, dtype):
    return train(sharded(name, units, dtype), dtype)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", CANONICALIZERS)
def test_every_way_to_shard_trains_as_one_process(pair, name, units):
    parts = pair.run(sharded_training, name, units, torch.float64)
    assert_same_training(parts, train(Pipeline(name, torch.float64), torch.float64))


@pytest.mark.parametrize("name", CANONICALIZERS)
def test_float32_trains_as_in_one_process(pair, name):
    parts = pair.run(sharded_training, name, "layers", torch.float32)
    assert_same_training(parts, train(Pipeline(name, torch.float32), torch.float32))


def canonical_images(name, units):
    """The canonical images of this process's part, in eval mode; and what they are after the weights were saved whole
    and loaded into other shards."""
    model = (sharded(name, units, torch.float32) if units else Pipeline(name, torch.float32)).eval()
    (x, _), *_ = batches(1, torch.float32)
    with torch.no_grad():
        image = model(x)[0].image
    if not units:
        return image, image, model.state_dict()
    options = StateDictOptions(full_state_dict=True)
    state = get_model_state_dict(model, options=options)
    other = sharded(name, "root", torch.float32).eval()
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    set_model_state_dict(other, dict(state), options=options)  # which replaces tensors by their shards
    with torch.no_grad():
        return image, other(x)[0].image, state


@pytest.mark.parametrize("units", ["root", "layers"])
@pytest.mark.parametrize("name", CANONICALIZERS)
def test_canonical_images_and_saved_weights_are_those_of_one_process(pair, name, units):
    parts = pair.run(canonical_images, name, units)
    expected, _, state = canonical_images(name, None)
    for images in zip(*(part[:2] for part in parts), strict=True):
        assert torch.equal(torch.cat(images), expected)
    assert parts[0][2].keys() == state.keys()
    assert all(torch.equal(parts[0][2][key], value) for key, value in state.items())


def accumulated(name, units):
    """Gradients of two batches, reduced once."""
    model = sharded(name, units, torch.float64) if units else Pipeline(name, torch.float64)
    losses = []
    for number, (x, labels) in enumerate(batches(2, torch.float64)):
        if units:
            model.set_requires_gradient_sync(number == 1)
        losses.append(loss_of(model(x), labels))
        losses[-1].backward()
    return torch.stack(losses).detach(), gradients(model)


@pytest.mark.parametrize("units", ["both", "layers"])
def test_gradients_accumulate_without_communication(pair, units):
    assert_same_training(pair.run(accumulated, "ViT", units), accumulated("ViT", None))


def network_training():
    model = Pipeline("ConvNetwork", torch.float64)
    fully_shard(model.canonicalizer.network, mesh=init_device_mesh("cpu", (2,)))
    return train(model, torch.float64, steps=1)


def test_the_network_alone_may_be_sharded(pair):
    """The gradients of all else are each process's own."""
    parts = pair.run(network_training)
    alone = train(Pipeline("ConvNetwork", torch.float64), torch.float64, steps=1)
    for key, grad in alone[1].items():
        ours = [grads[key] for _, grads in parts]
        if not key.startswith("canonicalizer.network."):
            ours = [torch.stack(ours).mean(0)]
        for own in ours:
            assert_alike(own, grad, key)
