"""Two processes under DDP train as one process does on the whole batch."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .models import (
    CANONICALIZERS,
    RATE,
    Pipeline,
    assert_alike,
    assert_same_gradients,
    assert_same_training,
    batches,
    gradients,
    loss_of,
    train,
)

compiled = partial(torch.compile, backend="aot_eager")


def _compiled_network(model: Pipeline) -> nn.Module:
    model.canonicalizer.network = compiled(model.canonicalizer.network)
    return DistributedDataParallel(model)


WRAPPERS = {
    "plain": DistributedDataParallel,
    "static graph": partial(DistributedDataParallel, static_graph=True),
    "unused parameters": partial(DistributedDataParallel, find_unused_parameters=True),
    "views of buckets": partial(DistributedDataParallel, gradient_as_bucket_view=True),
    "compiled network": _compiled_network,
    "compiled inside": lambda model: DistributedDataParallel(compiled(model)),
    "compiled outside": lambda model: compiled(DistributedDataParallel(model)),
}


def wrapped_training(name, wrapper, dtype):
    torch._dynamo.reset()
    return train(WRAPPERS[wrapper](Pipeline(name, dtype)), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CANONICALIZERS)
def test_every_canonicalizer_trains_as_in_one_process(pair, name, dtype):
    parts = pair.run(wrapped_training, name, "plain", dtype)
    assert_same_training(parts, train(Pipeline(name, dtype), dtype))


@pytest.mark.parametrize(
    ("name", "wrapper"),
    [("ViT", wrapper) for wrapper in WRAPPERS if wrapper != "plain"] + [("tiny", "compiled network")],
)
def test_every_way_to_wrap_trains_as_one_process(pair, name, wrapper):
    parts = pair.run(wrapped_training, name, wrapper, torch.float64)
    assert_same_training(parts, train(Pipeline(name, torch.float64), torch.float64))


def network_training(name):
    model = Pipeline(name, torch.float64)
    model.canonicalizer.network = DistributedDataParallel(model.canonicalizer.network)
    return train(model, torch.float64, steps=1)


@pytest.mark.parametrize("name", CANONICALIZERS)
def test_the_network_alone_may_be_wrapped(pair, name):
    """DDP then averages the gradients of the network. Those of all else are each process's own."""
    parts = pair.run(network_training, name)
    alone = train(Pipeline(name, torch.float64), torch.float64, steps=1)
    for own in alone[1].keys() - {key for key in alone[1] if key.startswith("canonicalizer.network.")}:
        mean = torch.stack([grads[own] for _, grads in parts]).mean(0)
        parts = [(losses, grads | {own: mean}) for losses, grads in parts]
    assert_same_training(parts, alone)


def accumulated(name, wrapped):
    """Losses and gradients of two batches, averaged over processes with the second; and what they were before it."""
    model = Pipeline(name, torch.float64)
    model = DistributedDataParallel(model) if wrapped else model
    (x, labels), (y, more_labels) = batches(2, torch.float64)
    with model.no_sync() if wrapped else nullcontext():
        first = loss_of(model(x), labels)
        first.backward()
    before = {key: grad.clone() for key, grad in gradients(model).items()}
    second = loss_of(model(y), more_labels)
    second.backward()
    return torch.stack([first, second]).detach(), gradients(model), before


@pytest.mark.parametrize("name", ["ViT", "direct"])
def test_gradients_accumulate_without_communication(pair, name):
    first, second = pair.run(accumulated, name, True)
    alone = accumulated(name, False)
    assert_same_training([first[:2], second[:2]], alone[:2])
    assert any(not torch.equal(first[2][key], second[2][key]) for key in first[2])
    assert_same_gradients({key: (first[2][key] + second[2][key]) / 2 for key in first[2]}, alone[2])


FIELDS = ["image", "activations", "probabilities", "vectors"]


def field_training(field):
    """A loss of one field of the form that DDP returns; without gradient where that doesn't reach a parameter."""
    model = Pipeline("ViT", torch.float64).canonicalizer
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if dist.is_initialized() else model
    (x, _), *_ = batches(1, torch.float64)
    form = wrapped(x)
    value = getattr(form, field)
    loss = (value * torch.linspace(-1, 1, value[0].numel(), dtype=x.dtype).reshape(value[0].shape)).sum() / len(x)
    loss.backward()
    return loss.detach()[None], gradients(model), type(form).__name__


@pytest.mark.parametrize("field", FIELDS)
def test_a_loss_may_use_any_part_of_the_form(pair, field):
    parts, (loss, expected, _) = pair.run(field_training, field), field_training(field)
    assert {kind for _, _, kind in parts} == {"CanonicalForm"}
    assert_alike(torch.stack([losses for losses, _, _ in parts]).mean(0), loss, field)
    for _, grads, _ in parts:
        # DDP gives a parameter that no loss reaches a gradient of zero.
        unreached = {key: torch.zeros_like(grad) for key, grad in grads.items() if key not in expected}
        assert_same_gradients(grads, expected | unreached)


def joined(name, counts):
    """Weights after training on as many batches as ``counts`` has for this process."""
    model = DistributedDataParallel(Pipeline(name, torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with model.join():
        for x, labels in batches(counts[dist.get_rank()], torch.float64):
            optimizer.zero_grad()
            loss_of(model(x), labels).backward()
            optimizer.step()
    return {key: value.detach() for key, value in model.module.named_parameters()}


@pytest.mark.parametrize("counts", [(3, 1), (0, 2)])
def test_processes_may_run_out_of_batches_at_different_times(pair, counts):
    """One that has run out counts as a gradient of zero."""
    parts = pair.run(joined, "ViT", counts)
    model = Pipeline("ViT", torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for step, (x, labels) in enumerate(batches(max(counts), torch.float64)):
        optimizer.zero_grad()
        for rank, count in enumerate(counts):
            if step < count:
                (loss_of(model(x.chunk(2)[rank]), labels.chunk(2)[rank]) / 2).backward()
        optimizer.step()
    for key, value in model.named_parameters():
        for part in parts:
            assert_alike(part[key], value.detach(), key)
