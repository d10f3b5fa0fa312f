"""`equifast.flops`: torch's counter counts of an op what it counts of its definition."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import equifast.flops  # noqa: F401  # tells the counter
from equifast import as_group, ops, reference
from equifast.nn import Canonicalizer, ConvNetwork

from ..cases import differentiable, rand

CASES = {name: (function, leaves) for name, function, leaves in differentiable(as_group("C4"), (6, 6), torch.float32)}

#: Ops whose backward pass makes again what forward has made, and so counts it again.
MADE_AGAIN = ("orbit_conv2d_pool", "orbit_linear_scores")


def counted(run):
    with FlopCounterMode(display=False) as counter:
        out = run()
    return counter.get_total_flops(), out


@pytest.mark.parametrize("name", CASES)
def test_an_op_counts_as_its_definition(name):
    function, leaves = CASES[name]
    totals = []
    for library in (ops, reference):
        mine = [leaf.detach().requires_grad_() for leaf in leaves]
        forward, out = counted(lambda f=function, library=library, mine=mine: f(library, *mine))
        total = sum(o.sum() for o in (out if isinstance(out, tuple) else (out,)))
        totals.append((forward, counted(lambda total=total, mine=mine: torch.autograd.grad(total, mine))[0]))
    (ours, our_backward), (theirs, their_backward) = totals
    again = ours if name.startswith(MADE_AGAIN) else 0
    assert (ours, our_backward) == (theirs, their_backward + again)
    assert ours > 0 or "conv2d" not in name


@pytest.mark.parametrize("training", [False, True])
def test_a_network_counts_as_on_the_orbit_itself(training):
    """Also where all of its layers run in one kernel."""
    torch.manual_seed(0)
    network, x = ConvNetwork((3, 20, 20), 4, 5, 2, 8).train(training), rand(2, 3, 20, 20)
    canonicalizer = Canonicalizer(network, "D3", score=lambda vectors: vectors[:, 0]).train(training)
    with torch.set_grad_enabled(training):
        ours, _ = counted(lambda: canonicalizer(x))
        theirs, _ = counted(lambda: network(reference.orbit(x, "D3")))
    assert ours == theirs > 0


def test_importing_equifast_imports_no_counter():
    """It imports Triton."""
    code = "import sys, equifast; assert 'torch.utils.flop_counter' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
