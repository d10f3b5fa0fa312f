"""Each op against its definition, over arguments that hypothesis draws: values, and gradients through autograd."""

import pytest
import torch

from equifast.ops import registry

from ..backend import needs, only
from ..cases import assert_near_overall
from ..definitions import check, in_tuple
from ..drawn import EXAMPLES, over_drawn
from ..samples import ARGUMENTS

pytestmark = [
    only("cpu", "emulation", "gpu", because="it is the definition, or interpreted"),
    pytest.mark.usefixtures("float32_in_float32"),
]

OPS = [pytest.param(op, marks=needs(op)) for op in ARGUMENTS]
DIFFERENTIABLE = [pytest.param(op, marks=needs(op)) for op, known in ARGUMENTS.items() if known.differentiable]


@pytest.mark.parametrize("op", OPS)
def test_every_op_is_its_definition(op):
    over_drawn(lambda sample: check(sample, assert_near_overall), op, EXAMPLES)


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_every_gradient_is_that_of_the_definition(op):
    over_drawn(check_gradients, op, EXAMPLES // 2, requires_grad=True)


def check_gradients(sample):
    """Those of each floating argument, given those of all outputs that have one."""
    leaves = [arg for arg in sample.args if isinstance(arg, torch.Tensor) and arg.requires_grad]
    outs, definitions = sample.run(), in_tuple(registry.COMPOSED[sample.op](*sample.args))
    pairs = [(ours, theirs) for ours, theirs in zip(outs, definitions, strict=True) if ours.requires_grad]
    for ours, theirs in zip(*(gradients(of, leaves) for of in zip(*pairs, strict=True)), strict=True):
        assert (ours is None) == (theirs is None), sample
        if ours is not None:
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), sample
            assert_near_overall(ours, theirs, scale=10, about=str(sample))


def gradients(outs, leaves):
    grads = [torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape) for out in outs]
    return torch.autograd.grad(outs, leaves, grads, allow_unused=True)
