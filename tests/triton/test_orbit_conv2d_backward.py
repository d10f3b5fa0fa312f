"""What the laws of `orbit_conv2d_backward` can't choose: tiles, offsets, and how a sum is cut."""

import itertools

import pytest
import torch

from equifast.kernels import orbit_conv2d_backward as host
from equifast.kernels import orbit_conv2d_grad_input as grad_input
from equifast.kernels import orbit_conv2d_grad_weight as grad_weight

from ..convolutions import PLAIN, layer, products_of
from ..ops.test_orbit_conv2d_backward import check

PARAMETERS = [False, True, True]
KINDS = [(torch.float64, "ieee"), (torch.float32, "ieee"), (torch.float32, "tf32")]

pytestmark = pytest.mark.usefixtures("sampling_is_eager", "nothing_launched")


@pytest.fixture
def nothing_launched():
    """The kernels forget what they launched, before a test and after it."""
    for module in (grad_weight, grad_input):
        module.KERNEL._launches.clear()
    yield
    for module in (grad_weight, grad_input):
        module.KERNEL._launches.clear()


def weight_configs():
    shapes = itertools.product([16, 20, 64, 70], [9, 147], [(5, 5), (14, 14)])
    listed = (grad_weight.configs(*s[:2], *s[2], *kind) for s in shapes for kind in KINDS)
    return {str(c): c for c in itertools.chain.from_iterable(listed)}


def input_configs():
    shapes = itertools.product([3, 20, 64, 70], [(1, 1), (2, 2)], [8, 64])
    listed = (grad_input.configs(c, s, True, n, *kind) for c, s, n in shapes for kind in KINDS)
    return {str(c): c for c in itertools.chain.from_iterable(listed)}


@pytest.mark.parametrize(
    ("module", "configs", "group", "needs"),
    [(grad_weight, weight_configs, "C4", PARAMETERS), (grad_input, input_configs, "D1", [True, False, False])],
    ids=["weight", "input"],
)
def test_every_configuration(module, configs, group, needs, monkeypatch):
    tensors, options = layer(group, ((9, 9), (2, 2), PLAIN), channels=(3, 20))
    for name, config in configs().items():
        monkeypatch.setattr(module, "configs", lambda *_, config=config: [config])
        module.KERNEL._launches.clear()
        check(group, tensors, options, needs, about=name)


@pytest.mark.parametrize("processors", [1, 3, 1000])
def test_however_the_sum_is_cut(monkeypatch, processors):
    monkeypatch.setattr(grad_weight, "processors", lambda device: processors)
    for group in ("C4", "C3"):
        check(group, *layer(group, ((9, 9), (2, 2), PLAIN), batch=3), PARAMETERS)


def test_offsets_in_64_bits(monkeypatch):
    for module in (grad_weight, grad_input):
        monkeypatch.setattr(module, "padded_span", lambda *_: 1 << 31)
    check("C3", *layer("C3", ((6, 6), (2, 2), ((2, 1), (1, 2), (1, 2))), dtype=torch.float64))


@pytest.mark.parametrize(("number", "precision"), [("tf32", "tf32"), (torch.float32, "ieee")], ids=str)
def test_precision_follows_pytorch(number, precision):
    with products_of(number):
        assert host.input_precision(torch.float32) == precision
        assert host.input_precision(torch.float16) == host.input_precision(torch.float64) == "ieee"
        check("C4", *layer("C4", ((6, 6), (2, 2), PLAIN)))
