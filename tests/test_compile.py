"""Every op under torch.compile and torch.export: one graph, the same values, no recompilation."""

import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from equifast import CyclicGroup, DihedralGroup, Group, as_group, canonicalize, ops, orbit_scores, reference

from .cases import assert_near, assert_same, differentiable, ids, rand

GROUP = as_group("D3")
CASES = {name: (function, leaves) for name, function, leaves in differentiable(GROUP, (6, 7), torch.float64)}


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def values_and_gradients(function, leaves):
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    out = function(*leaves)
    out = out if isinstance(out, tuple) else (out,)
    upstream = [rand(*o.shape, dtype=o.dtype, seed=9) for o in out]
    return *(o.detach() for o in out), *torch.autograd.grad(out, leaves, upstream)


@pytest.mark.parametrize("name", CASES)
def test_compiled_ops_are_the_eager_ones(name):
    function, leaves = CASES[name]
    compiled = torch.compile(lambda *leaves: function(ops, *leaves), backend="aot_eager", fullgraph=True)
    expected = values_and_gradients(lambda *leaves: function(ops, *leaves), leaves)
    for actual, eager in zip(values_and_gradients(compiled, leaves), expected, strict=True):
        assert_near(actual, eager)


@pytest.mark.parametrize(
    "op",
    ["crop_resize", "orbit", "act", "orbit_average", "orbit_conv2d", "orbit_scores", "contrastive_loss"],
)
def test_any_batch_after_the_second_size_is_compiled_already(op):
    counter = CompileCounterWithBackend("aot_eager")
    group = "C8"
    weight, r, element = rand(4, 3, 3, 3), rand(5), ids(group, 8)
    call = {
        "crop_resize": lambda x, v: ops.crop_resize(x, (4, 3), crop=(1, 0, 5, 6)),
        "orbit": lambda x, v: ops.orbit(x, group),
        "act": lambda x, v: ops.act(x, element[: x.shape[0]], group=group, representation="trivial"),
        "orbit_average": lambda x, v: ops.orbit_average(
            ops.orbit(x, group), v[: x.shape[0], :1] * r[0:1].expand(8), group=group
        ),
        "orbit_conv2d": lambda x, v: ops.orbit_conv2d(x, weight, group=group, padding="same"),
        "orbit_scores": lambda x, v: ops.orbit_scores(v, r, group=group),
        "contrastive_loss": lambda x, v: ops.contrastive_loss(v, group=group),
    }[op]
    compiled = torch.compile(call, backend=counter, fullgraph=True)
    for batch in (2, 3, 5, 8, 6):
        x, v = rand(batch, 3, 6, 6), rand(8 * batch, 5)
        out, expected = compiled(x, v), call(x, v)
        for actual, eager in zip(
            out if isinstance(out, tuple) else (out,),
            expected if isinstance(expected, tuple) else (expected,),
            strict=True,
        ):
            assert_near(actual, eager)
    assert counter.frame_count == 2


def test_ids_out_of_range_are_an_error_when_compiled_too():
    compiled = torch.compile(lambda x, element: ops.act(x, element, group="C4"), backend="aot_eager", fullgraph=True)
    x = rand(2, 3, 5, 5)
    assert_same(compiled(x, torch.tensor([1, 3])), ops.act(x, torch.tensor([1, 3]), group="C4"))
    with pytest.raises(RuntimeError, match=r"element: expected ids in \[0, 4\), got 4"):
        compiled(x, torch.tensor([1, 4]))


def pipeline(x, weight, bias, r):
    """Score an orbit, undo the choice, average: forward and a loss to differentiate."""
    vectors = ops.orbit_conv2d(x, weight, bias, group=GROUP, stride=2).relu().mean((2, 3))
    scores = orbit_scores(vectors, r, group=GROUP, beta=2.0)
    image = ops.act(x, scores.element, group=GROUP, inverse=True)
    soft = ops.orbit_average(ops.orbit(x, GROUP), scores.probabilities, group=GROUP)
    loss = ops.contrastive_loss(vectors, group=GROUP) + (image * soft).mean() + scores.activations.sum()
    return image, loss


@pytest.mark.slow
def test_inductor_compiles_a_pipeline_of_all_ops():
    leaves = rand(4, 3, 12, 12), rand(5, 3, 3, 3), rand(5), rand(5, seed=1)
    grads = []
    for run in (pipeline, torch.compile(pipeline, fullgraph=True)):
        mine = [leaf.clone().requires_grad_() for leaf in leaves]
        image, loss = run(*mine)
        grads.append((image.detach(), loss.detach(), *torch.autograd.grad(loss, mine)))
    for eager, compiled in zip(*grads, strict=True):
        assert_near(compiled, eager)


@pytest.mark.parametrize("name", CASES)
def test_exported_ops_take_any_batch(name):
    function, leaves = CASES[name]
    _, more = {n: (f, leaf) for n, f, leaf in differentiable(GROUP, (6, 7), torch.float64, batch=4)}[name]

    class Module(torch.nn.Module):
        def forward(self, *leaves):
            return function(ops, *leaves)

    batched = [tuple(a.shape) != tuple(b.shape) for a, b in zip(leaves, more, strict=True)]
    if name.startswith("act"):
        more = leaves  # its ids are of a fixed batch here
        batched = [False] * len(batched)
    dims = tuple({0: torch.export.Dim.AUTO} if b else None for b in batched)
    exported = torch.export.export(Module(), leaves, dynamic_shapes=(dims,)).module()
    out, expected = exported(*more), function(reference, *more)
    for actual, eager in zip(
        out if isinstance(out, tuple | list) else (out,),
        expected if isinstance(expected, tuple) else (expected,),
        strict=True,
    ):
        assert_near(actual, eager)


def test_whether_a_form_is_tied_compiles_whole():
    activations = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 2.0], [0.0, torch.nan, 2.0], [0.0, torch.inf, 0.0]])
    activations = torch.cat((activations, torch.full((1, 3), -torch.inf)))

    def tied(x, activations):
        return canonicalize(x, None, None, group="C3", activations=activations).tied

    compiled = torch.compile(tied, backend="aot_eager", fullgraph=True)
    for form_tied in (tied, compiled):
        assert form_tied(rand(5, 1, 4, 4), activations).tolist() == [True, False, True, True, True]


COLD = """
import warnings
import torch
import equifast

warnings.simplefilter("error")
warnings.filterwarnings("ignore", "Guards may run slower on Python 3.13.0")  # torch's, of that Python alone
x, element = torch.rand(2, 2, 8, 8), torch.tensor([0, 1])

def step(x, group):
    moved = equifast.orbit(equifast.act(x, element, group=group, representation="vector"), group)
    weights = torch.full((2, equifast.as_group(group).order), 0.5)
    return moved, equifast.orbit_average(moved, weights, group=group)

compiled = torch.compile(step, fullgraph=True, backend="eager")
for group in (GROUPS):
    for ours, theirs in zip(compiled(x, group), step(x, group)):
        assert torch.equal(ours, theirs), group
"""


@pytest.mark.parametrize(
    "groups",
    [
        '"C4", "D8", "C6"',
        "equifast.CyclicGroup(3), equifast.CyclicGroup(5), equifast.CyclicGroup(7)",
        "equifast.DihedralGroup(4), equifast.Group(6, True), equifast.CyclicGroup(2)",
    ],
)
def test_groups_compile_in_a_process_that_has_met_none(groups):
    """By name and as objects, one after the other, without a warning: the compiler sees the first one cold."""
    code = COLD.replace("GROUPS", groups)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_groups_made_from_their_fields_are_the_same():
    for group in (CyclicGroup(5), DihedralGroup(5), Group(5), Group(5, True)):
        assert type(group)(**{field.name: getattr(group, field.name) for field in fields(group)}) == group
    with pytest.raises(ValueError, match="reflections: expected False for a cyclic group"):
        CyclicGroup(4, True)
    with pytest.raises(ValueError, match="reflections: expected True for a dihedral group"):
        DihedralGroup(4, False)


def test_importing_equifast_imports_no_compiler():
    """torch._dynamo and Triton take 2 s to import, and only those who compile or launch kernels need them."""
    code = "import sys, equifast; assert not {'torch._dynamo', 'triton'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
