"""What is held in memory, what is written there, and indices past 2³¹."""

import importlib
import itertools
import math
import sys

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import equifast
from equifast import as_group, ops

from .cases import assert_same, differentiable, ids, rand

CHUNK = importlib.import_module("equifast.ops.orbit_conv2d").CHUNK_BYTES
D8 = as_group("D8")


@pytest.fixture
def unpoisoned(monkeypatch):
    """For memory too large to fill."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)


def test_an_unwritten_element_would_show():
    assert torch.empty(3).isnan().all() and torch.zeros(2).new_empty(3, dtype=torch.bfloat16).isnan().all()
    assert (torch.empty(3, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()


@pytest.mark.parametrize("op", ["orbit", "act", "orbit_average", "orbit_conv2d", "orbit_scores", "contrastive_loss"])
def test_native_kernels_write_into_poisoned_memory_too(op):
    """Their outputs come from C++, and are filled there before the kernel sees them."""
    _, function, leaves = next(case for case in differentiable(D8, (5, 5), torch.float32) if case[0].startswith(op))
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        out = function(ops, *leaves)
    out = out[0] if isinstance(out, tuple) else out
    assert not out.isnan().any()
    filled = [event for event in recorded.events() if event.name == "aten::fill_"]
    assert any(within(event, "equifast::") for event in filled)


def within(event, prefix):
    return event is not None and (event.name.startswith(prefix) or within(event.cpu_parent, prefix))


def peak(function):
    """``function()`` and the bytes by which resident memory exceeded, meanwhile, what it was before."""

    def read(key):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith(key))

    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = read("VmRSS")
    out = function()
    return out, read("VmHWM") - before


def allocated(function):
    """The most bytes of tensors that ``function()`` held at one time. Resident memory also has what malloc wastes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    events = (e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]")
    changes = (e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(itertools.accumulate(changes), default=0)


def test_allocated_counts_what_is_held_at_one_time():
    assert allocated(lambda: [torch.empty(1000) for _ in range(3)]) == 3 * 4000
    assert allocated(lambda: [torch.empty(1000).numel() for _ in range(3)]) == 4000


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
@pytest.mark.parametrize(("channels", "dtype"), [(3, torch.float32), (6, torch.float32), (3, torch.bfloat16)])
def test_orbit_conv2d_never_holds_the_orbit(channels, dtype):
    """Forward and backward, by our own kernel and in chunks."""
    x = torch.rand(8 * 4 // dtype.itemsize, channels, 256, 256).to(dtype).requires_grad_()
    weight = torch.rand(4, channels, 3, 3).to(dtype).requires_grad_()
    orbit_bytes = D8.order * x.nbytes

    def forward():
        return equifast.orbit_conv2d(x, weight, group=D8, stride=8)

    def backward(out):
        return torch.autograd.grad(out, (x, weight), torch.ones_like(out))

    backward(forward())  # the convolution library keeps what it sets up
    # A few chunks, and what the convolution library makes of each: it pads channels to whole vectors.
    budget = 13 * CHUNK
    assert orbit_bytes > 4 * budget
    # What malloc wastes differs from call to call. An orbit would show in each: its memory is mapped anew.
    out = forward()
    assert min(peak(forward)[1] for _ in range(3)) - out.nbytes < budget
    assert min(peak(lambda: backward(forward()))[1] for _ in range(3)) - x.nbytes - out.nbytes < budget


def saved_by(function, leaves):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        function(ops, *(leaf.requires_grad_() for leaf in leaves))
    return saved


def test_backward_keeps_only_the_inputs_it_needs():
    for name, function, leaves in differentiable(D8, (5, 5), torch.float32):
        kept = {
            "orbit": [],
            "act": [(leaves[0].shape[0],)],
            "orbit_average": [leaf.shape for leaf in leaves],
            "orbit_conv2d": [leaf.shape for leaf in leaves[:2]],
        }
        op = name.partition(" ")[0]
        if op in kept:
            # A weighted sum keeps its images as (E, B, …).
            numbers = sorted(math.prod(shape) for shape in kept[op])
            assert sorted(t.numel() for t in saved_by(function, leaves)) == numbers, name


@pytest.mark.slow
def test_outputs_past_2_to_the_31(unpoisoned):
    """Whatever went to a wrapped index would be missing at the end."""
    group, shape = as_group("C2"), (3, 128, 128)
    batch = 2**31 // (group.order * math.prod(shape)) + 2
    x = rand(1, *shape, dtype=torch.bfloat16)
    out = equifast.orbit(x.expand(batch, *shape), group).unflatten(0, (group.order, batch))
    assert out.numel() > 2**31
    assert_same(out[:, [0, 1, -2, -1]], equifast.orbit(x, group)[:, None].expand(-1, 4, *shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_strides_past_2_to_the_31(dtype, unpoisoned):
    """Rows, channels and images whose distances need 64 bits; only the pages they lie on are ever touched."""
    group, height, width, row = as_group("D8"), 33, 33, 2**26 + 7
    image = torch.empty(0, dtype=dtype).set_(
        torch.UntypedStorage(dtype.itemsize * (height * row + 4096)), 0, (2, 2, height, width), (600, 300, row, 1)
    )
    assert row * (height - 1) > 2**31
    image.copy_(rand(*image.shape, dtype=dtype))
    dense = image.contiguous()
    assert_same(equifast.orbit(image, group), equifast.orbit(dense, group))
    element = ids(group, 2)
    assert_same(equifast.act(image, element, group=group), equifast.act(dense, element, group=group))
    table = list(group.action_table(inverse=True))
    library = torch.ops.equifast
    for adjoint in (False, True):
        for op, args in ((library.orbit, (None,)), (library.orbit_average, (None,)), (library.act, (element,))):
            action = (*args, table, [], [], "border", adjoint)
            assert_same(op(image, *action), op(dense, *action))
    assert_same(
        library.orbit_inner(image, image, table, [], [], "border"),
        library.orbit_inner(dense, dense, table, [], [], "border"),
    )
    weight = rand(3, 2, 3, 3, dtype=dtype)
    assert_same(equifast.orbit_conv2d(image, weight, group=group), equifast.orbit_conv2d(dense, weight, group=group))


def test_a_transposed_plane_past_2_to_the_32_is_refused():
    """The one place where pixels are counted in 32 bits says so."""
    plane = torch.zeros(1, 1, 1, 1).expand(1, 1, 2**16 + 1, 2**16)
    table = list(as_group("C3").action_table(inverse=True))
    with pytest.raises(RuntimeError, match=r"expected at most 2\^32 pixels a plane, got 4295032832"):
        torch.ops.equifast.orbit(plane, None, table, [], [], "border", True)
