"""The direct method: images to activations by an equivariant network, at inference and in a training step.

`steerable` is equiadapt's network of e2cnn, with the 32 channels and kernel 5 of its configuration for classification;
ours is converted from that. `plain` is equiadapt's network without e2cnn, whose layers after the first are 1×1, and its
stand-in in `equifast.compat`. `eager` turns the filters of all members in plain PyTorch, and runs one ordinary
convolution a layer. Dropout is off, so that outputs can be compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import equifast
from equifast.compat.equiadapt import CustomEquivariantNetwork
from equifast.compat.equiadapt.images.canonicalization_networks import converted
from equifast.nn import EquivariantNetwork, LiftConv2d

from ..harness import contenders, published
from ..harness.measure import Bind, Case, Contender, Options, Unavailable, direct, largest_difference, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import Setting

MEASURE = "direct method"
TRAINING = "direct method, training step"
STEERABLE, PLAIN = "steerable", "plain"
CHANNELS, KERNEL = 32, 5

#: Of the largest activation: the networks sum in different orders.
TOLERANCE = 1e-3

#: Of the norm of the images' gradient. Where ReLU gets a value near 0, rounding decides whether it passes a gradient.
#: So single pixels of `eager` are off by 2 % of the largest, and its norm by 0.001, against that network in float64.
GRADIENT_TOLERANCE = 1e-2


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    for setting in options.chosen(settings(options)):
        setting = options.setting(setting)
        for name, training in ((MEASURE, False), (TRAINING, True)):
            options.log(f"{name}: {setting}")
            timings = run(case(setting, options.device, training), options)
            yield rows(name, setting, timings), verdicts(name, setting, timings, options.kind)


def settings(options: Options) -> list[Setting]:
    batch = options.batch(cpu=8, cuda=64)
    made = [("C4", 2, STEERABLE), ("C4", 3, STEERABLE), ("D4", 2, STEERABLE), ("C4", 1, PLAIN), ("C4", 3, PLAIN)]
    return [Setting(g, batch=batch, size=96, layers=n, label=f"{kind}, {n} layers") for g, n, kind in made]


def case(setting: Setting, device: torch.device, training: bool) -> Case:
    plain = setting.label.startswith(PLAIN)
    networks = (plain_networks if plain else steerable_networks)(device)

    def build(make: Callable[[Setting], nn.Module]) -> Bind:
        network = copy.deepcopy(make(setting)).to(device).train(training)
        for module in network.modules():
            if hasattr(module, "p"):
                module.p = 0.0
        return partial(step, network) if training else direct(network)

    def inputs(generator: torch.Generator) -> tuple[Tensor]:
        return (setting.images(generator, device),)

    def compare(got, expected, name: str) -> str | None:
        if not training:
            return difference(got, expected)
        (activations, gradient), (expected, expected_gradient) = got, expected
        off = (torch.linalg.vector_norm(gradient - expected_gradient) / expected_gradient.norm()).item()
        return difference(activations, expected) or (
            None if off <= GRADIENT_TOLERANCE else f"gradient off by {off:.2g}"
        )

    entries = [Contender(name, partial(build, make)) for name, make in networks.items()]
    return Case(TRAINING if training else MEASURE, setting, inputs, entries, "eager", compare)


def difference(activations: Tensor, expected: Tensor) -> str | None:
    return largest_difference(activations, expected, TOLERANCE * expected.abs().max().item())


def step(network: nn.Module, x: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """Forward, prior loss, backward to the parameters and the images."""

    def thunk() -> tuple[Tensor, Tensor]:
        images = x.detach().requires_grad_()
        network.zero_grad()
        activations = network(images)
        equifast.losses.prior_loss(activations).backward()
        return activations.detach(), images.grad

    return thunk


def steerable_networks(device: torch.device) -> dict[str, Callable[[Setting], nn.Module]]:
    return {"equiadapt": steerable, "eager": lambda s: Expanded(ours(s)), contenders.ours(device): ours}


def plain_networks(device: torch.device) -> dict[str, Callable[[Setting], nn.Module]]:
    return {
        "equiadapt": partial(plain, True),
        "eager": lambda s: Whole(plain(False, s)),
        contenders.ours(device): partial(plain, False),
    }


@cache
def steerable(setting: Setting) -> nn.Module:
    published_package()
    from equiadapt import ESCNNEquivariantNetwork

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind = "roto-reflection" if setting.group[0] == "D" else "rotation"
        return ESCNNEquivariantNetwork(setting.small, CHANNELS, KERNEL, kind, int(setting.group[1:]), setting.layers)


@cache
def ours(setting: Setting) -> EquivariantNetwork:
    """With the weights of `steerable`, if that can be made."""
    try:
        return converted(steerable(setting), setting.small)
    except Unavailable:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return EquivariantNetwork(setting.small, setting.group, CHANNELS, KERNEL, setting.layers)


@cache
def plain(theirs: bool, setting: Setting) -> nn.Module:
    arguments = (setting.small, CHANNELS, KERNEL, "rotation", int(setting.group[1:]), setting.layers, "cpu")
    made = CustomEquivariantNetwork(*arguments)
    if theirs:
        published_package()
        from equiadapt import CustomEquivariantNetwork as Published

        network = Published(*arguments)
        network.load_state_dict(plain(False, setting).state_dict())
        return network
    return made


def published_package() -> None:
    found, why = published.package()
    if found is None:
        raise Unavailable(why)


class Whole(nn.Module):
    """The plain network with the mean after its last layer."""

    def __init__(self, network: CustomEquivariantNetwork) -> None:
        super().__init__()
        self.layers = network.eqv_network

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((1, 3, 4))


class Expanded(nn.Module):
    """`EquivariantNetwork` over exact elements, in the frame of the image: ordinary convolutions and normalizations."""

    def __init__(self, network: EquivariantNetwork) -> None:
        super().__init__()
        self.group, self.layers = network.group, network.layers

    def bank(self, layer: nn.Module) -> Tensor:
        """(C_out·E, C·E or C, k, k): for member e and input member h, the filter of place e⁻¹h, turned by g_h."""
        group = self.group
        if isinstance(layer, LiftConv2d):
            filters = [self.turned(layer.weight, e) for e in range(group.order)]
            return torch.stack(filters, 1).flatten(0, 1)
        places = layer.weight.unflatten(1, (group.order, -1))
        members = range(group.order)
        one = [[self.turned(places[:, group.compose(group.inverse(e), h)], h) for h in members] for e in members]
        return torch.stack([torch.stack(row, 2) for row in one], 1).flatten(0, 1).flatten(1, 2)

    def turned(self, weight: Tensor, element: int) -> Tensor:
        turns, flipped = self.group.split(element)
        return torch.rot90(weight.flip(-1) if flipped else weight, turns * 4 // self.group.n, (-2, -1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if not hasattr(layer, "weight"):
                continue
            x = F.conv2d(x, self.bank(layer), layer.bias.repeat_interleave(self.group.order), layer.stride)
            x = x.unflatten(1, (-1, self.group.order))
            if layer.norm is None:
                return x.mean((1, 3, 4))
            norm = layer.norm
            options = (
                norm.running_mean,
                norm.running_var,
                norm.weight,
                norm.bias,
                self.training,
                norm.momentum,
                norm.eps,
            )
            x = F.relu(F.batch_norm(x, *options)).flatten(1, 2)
        return x
