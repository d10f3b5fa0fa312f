"""The network of the direct method: equivariance, no preferred member, gradients, canonical images."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equifast import as_group, canonicalize, reference
from equifast.nn import EquivariantNetwork, GroupConv2d, PooledGroupConv2d, equivariant_network

from .cases import DTYPES, assert_near, assert_near_overall, assert_same, rand
from .test_group_conv2d import EXACT, GROUPS, exact, left, made, turned


def permuted(activations, group, h):
    """Of a turned image: out[:, e] = activations[:, h⁻¹e]."""
    return left(group, h, activations.t().flatten()).unflatten(0, activations.t().shape).t()


def smooth_noise(count, size, sigma, seed=0):
    """Images in which no direction is special: white noise, blurred by a Gaussian."""
    reach = int(4 * sigma)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = torch.randn(count, 1, size + 2 * reach, size + 2 * reach, generator=torch.Generator().manual_seed(seed))
    x = F.conv2d(F.conv2d(x, kernel[None, None, None]), kernel[None, None, :, None])
    return x / x.std()


@pytest.mark.parametrize("shape", [(9, 9), (12, 12), (9, 12)], ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_exact_elements_permute_the_activations_bit_for_bit(group, shape):
    """Those that map the pixels onto themselves, in groups that have others too."""
    for dtype, layers, batch in zip(DTYPES, (1, 2, 3, 4), (2, 3, 1, 5), strict=True):
        network = made(EquivariantNetwork, (2, *shape), group, 4, 3, layers, dtype=dtype)
        x = rand(batch, 2, *shape, dtype=dtype)
        with torch.no_grad():
            expected = network(x)
            assert expected.shape == (batch, group.order) and expected.dtype == dtype
            for h in exact(group, *shape):
                assert_same(network(turned(x, group, h)), permuted(expected, group, h))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("group", [g for g in GROUPS if g not in EXACT], ids=str)
def test_all_elements_permute_the_activations_of_smooth_images(group, layers):
    network = made(EquivariantNetwork, (1, 41, 41), group, 4, 5, layers)
    x = smooth_noise(4, 41, 4.0)
    with torch.no_grad():
        expected = network(x)
        spread = (expected - expected.mean(1, keepdim=True)).norm()
        for h in range(group.order):
            assert (network(turned(x, group, h)) - permuted(expected, group, h)).norm() < 0.15 * spread


@pytest.mark.parametrize("sigma", [1.0, 2.0])
@pytest.mark.parametrize("group", [g for g in GROUPS if g.order > 1], ids=str)
def test_every_element_is_chosen_equally_often(group, sigma):
    """Of images without a special direction, by untrained networks: Pearson's χ² over all of them.

    Below a blur by one pixel a trace of the pixel grid is left, which C7 shows first.
    """
    total, freedom, count = 0.0, 0, 600
    for seed in range(3):
        torch.manual_seed(seed)
        network = EquivariantNetwork((1, 21, 21), group, 3, 5, 2).eval()
        with torch.no_grad():
            chosen = network(smooth_noise(count, 21, sigma, seed)).argmax(1)
        expected = count / group.order
        total += ((chosen.bincount(minlength=group.order) - expected) ** 2 / expected).sum().item()
        freedom += group.order - 1
    # 4 deviations of a χ² variable.
    assert total < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("group", EXACT, ids=str)
def test_all_turned_images_have_one_canonical_image(group):
    network, x = made(EquivariantNetwork, (3, 14, 14), group, 4, 3, 3), rand(3, 3, 14, 14)
    with torch.no_grad():
        form = canonicalize(x, group=group, activations=network(x))
        assert not form.tied.any()
        for h in range(group.order):
            moved = turned(x, group, h)
            assert_same(canonicalize(moved, group=group, activations=network(moved)).image, form.image)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("name", ["C1", "C4", "C5", "D3", "D4"])
def test_values_and_gradients_are_those_of_the_definitions(name, layers):
    group = as_group(name)
    network = made(EquivariantNetwork, (2, 10, 10), group, 3, 3, layers, dtype=torch.float64)
    x = rand(2, 2, 10, 10, dtype=torch.float64).requires_grad_()
    first, *others = (layer for layer in network.layers)
    y = reference.lift_conv2d(x, first.weight, first.bias, group=group)
    for before, layer in zip([first, *others], others, strict=False):
        y = before.activation(before.norm(y))
        if type(layer) is PooledGroupConv2d:
            z = F.conv2d(y, layer.weight.unflatten(1, (group.order, -1)).transpose(0, 1).flatten(0, 1))
            places = z.mean((2, 3)).unflatten(0, (group.order, 2))
            own = [sum(places[group.compose(e, k)][:, k] for k in range(group.order)) for e in range(group.order)]
            expected = torch.stack(own, 1) + layer.bias
        else:
            assert type(layer) is GroupConv2d
            y = reference.group_conv2d(y, layer.weight, layer.bias, group=group)
    if layers == 1:
        expected = y.mean((1, 2, 3)).unflatten(0, (group.order, 2)).t()
    assert_near(network(x), expected)
    leaves = [x, *network.parameters()]
    upstream = rand(*expected.shape, dtype=torch.float64, seed=5)
    pairs = zip(*(torch.autograd.grad(out, leaves, upstream) for out in (network(x), expected)), strict=True)
    for a, b in pairs:
        assert_near_overall(a, b, scale=10)
    with torch.no_grad():  # folded, and in parts
        assert_near(network(x), expected)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_gradients(mode):
    network = made(EquivariantNetwork, (1, 6, 6), "C3", 2, 2, 3, dtype=torch.float64).train(mode)
    for layer in network.layers[:-1]:
        layer.activation = nn.SiLU()  # which has a derivative everywhere
    x = rand(2, 1, 6, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(network, x)


@pytest.mark.parametrize("layers", [2, 3])
def test_parts_of_a_batch_give_the_same_bits(layers, monkeypatch):
    network, x = made(EquivariantNetwork, (3, 11, 11), "D3", 8, 3, layers), rand(5, 3, 11, 11)
    with torch.no_grad():
        expected = network(x)
        monkeypatch.setattr(equivariant_network, "CHUNK_BYTES", 1)
        assert network._images_at_once(x) == 1
        assert_same(network(x), expected)
    assert network._images_at_once(x) is None  # since a graph is recorded
    with torch.no_grad():
        handle = network.layers[0].register_forward_hook(lambda *_: None)
        assert network._images_at_once(x) is None
        handle.remove()
        assert network.train()._images_at_once(x) is None


def test_trains():
    """A few steps towards images that lie as they are, from images that were turned."""
    torch.manual_seed(0)
    group, network = as_group("C4"), EquivariantNetwork((1, 13, 13), "C4", 4, 3, 3, dropout=0.1).train()
    x = smooth_noise(32, 13, 1.0) + torch.linspace(-2, 2, 13)
    element = torch.arange(32) % 4
    optimizer, losses = torch.optim.Adam(network.parameters(), 1e-2), []
    for _ in range(40):
        form = canonicalize(
            reference.act(x, element, group=group),
            group=group,
            activations=network.forward(reference.act(x, element, group=group)),
        )
        loss = form.prior_loss(element)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_no_images():
    network = EquivariantNetwork((3, 9, 9), "C8", 4, 3, 3)
    for mode in (True, False):
        assert network.train(mode)(torch.zeros(0, 3, 9, 9)).shape == (0, 8)


def test_is_copied_saved_and_compiled():
    torch.manual_seed(0)
    network, other = (EquivariantNetwork((3, 12, 12), "C3", 4, 3, 3).eval() for _ in range(2))
    other.load_state_dict(network.state_dict())
    x = rand(2, 3, 12, 12)
    expected = network(x)
    for same in (other, copy.deepcopy(network)):
        assert_same(same(x), expected)
    torch._dynamo.reset()
    for mode in (False, True):
        compiled = torch.compile(network.train(mode), backend="aot_eager", fullgraph=True)
        assert_near(compiled(x), copy.deepcopy(network)(x))


def test_memory_formats_and_other_sizes():
    network, x = made(EquivariantNetwork, (3, 9, 9), "D4", 4, 3, 3), rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = network(x)
        assert_same(network(x.contiguous(memory_format=torch.channels_last)), expected)
        assert_same(network(x.mT.contiguous().mT), expected)


def test_bfloat16_by_autocast():
    network, x = made(EquivariantNetwork, (3, 16, 16), "C4", 8, 3, 3), rand(4, 3, 16, 16)
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(x)
            for h in range(4):
                assert_same(network(turned(x, network.group, h)), permuted(found, network.group, h))
    assert (found.float() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (((3, 9), "C4"), r"in_shape: expected \(C, H, W\), got \(3, 9\)"),
        (((3, 9, 9), "C4", 4, 3, 0), "num_layers: expected at least 1, got 0"),
        (((3, 9, 20), "C4", 4, 5, 3), "in_shape: 9×20 is too small for 3 layers with kernel 5: nothing .* layer 3"),
        (((3, 9, 9), "K4"), "group: expected"),
    ],
)
def test_wrong_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        EquivariantNetwork(*arguments)


def test_images_of_another_kind():
    network = EquivariantNetwork((3, 9, 9), "C4", 4, 3, 2)
    with pytest.raises(ValueError, match=r"x: expected \(B, C, H, W\)"):
        network(torch.zeros(3, 9, 9))
    with pytest.raises(ValueError, match="weight: expected"):
        network(torch.zeros(2, 4, 9, 9))
    with pytest.raises(TypeError, match="network: expected a callable"):
        canonicalize(torch.zeros(2, 3, 9, 9), group="C4")
