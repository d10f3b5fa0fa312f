"""orbit, act, orbit_average and orbit_inner through torch's dispatcher, on CPU tensors, by interpreted kernels."""

import sys

import pytest
import torch

import equifast
from equifast import act, kernels, orbit, orbit_average, reference
from equifast.groups import as_group
from equifast.kernels.host import launch as launches
from equifast.kernels.host import resample
from equifast.kernels.host.launch import Config
from equifast.ops import _resample, registry
from equifast.representations import SIZES as REPRESENTATIONS
from equifast.representations import channel_action

from ..cases import DTYPES, LAYOUTS, PADDING_MODES, assert_near, assert_same, every, exact_elements, ids, rand

GROUPS = ["C1", "C3", "C4", "C6", "C8", "D1", "D3", "D4", "D8"]
SHAPES = [(1, 1), (1, 5), (4, 1), (2, 3), (5, 5), (6, 6), (17, 17), (4, 9)]


def test_triton_runs_these():
    assert registry.CHOSEN == {"cpu": "triton", "cuda": "triton"}


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("group", GROUPS)
def test_orbit_is_the_reference_bit_for_bit(group, padding_mode):
    for i, shape in enumerate(SHAPES):
        x = rand(1, 2, *shape, dtype=DTYPES[i % 4], seed=i)
        assert_same(orbit(x, group, padding_mode=padding_mode), reference.orbit(x, group, padding_mode=padding_mode))


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", ["C4", "C6", "D3", "D8"])
def test_act_is_the_reference(group, representation):
    check = assert_near if representation == "vector" else assert_same
    order = as_group(group).order
    for i, shape in enumerate([(5, 5), (3, 6)]):
        x = rand(order, REPRESENTATIONS[representation](order), *shape, dtype=DTYPES[i + 1])
        options = {"group": group, "representation": representation, "inverse": bool(i)}
        check(act(x, every(group), **options), reference.act(x, every(group), **options))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("group", ["C4", "C5"])
def test_orbit_average_is_the_reference(group, representation, dtype):
    order = as_group(group).order
    y = rand(order * 2, REPRESENTATIONS[representation](order), 5, 6 if representation == "vector" else 5, dtype=dtype)
    weights = rand(2, order, dtype=dtype, seed=1)
    options = {"group": group, "representation": representation}
    assert_near(orbit_average(y, weights, **options), reference.orbit_average(y, weights, **options), scale=2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    x = LAYOUTS[layout](rand(2, 3, 7, 7))
    plain = x.clone(memory_format=torch.contiguous_format)
    for group in ("D4", "C8"):
        out = orbit(x, group)
        assert out.is_contiguous(memory_format=_format(x))
        assert_same(out, orbit(plain, group))
        element = torch.stack((ids(group, 2), ids(group, 2)), 1)[:, 0]
        moved = act(x, element, group=group)
        assert moved.is_contiguous(memory_format=_format(x))
        assert_same(moved, act(plain, element.clone(), group=group))


def _format(x):
    return torch.channels_last if _resample.new_images(x, x.shape).stride(1) == 1 else torch.contiguous_format


@pytest.mark.parametrize("channels", [1, 5, 33])
def test_many_channels_in_either_format(channels):
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = rand(1, channels, 5, 5).contiguous(memory_format=memory_format)
        assert_same(orbit(x, "C8"), reference.orbit(x, "C8"))


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize(
    ("group", "shape"), [("D4", (4, 4)), ("C8", (5, 5)), ("C3", (4, 6)), ("C5", (1, 4)), ("C6", (7, 2))]
)
def test_transposes_are_the_adjoints(group, shape, padding_mode):
    """Against the same sums by index_add; on narrow images, long rays end on the edges."""
    table = list(as_group(group).action_table(inverse=True))
    order, dtype = as_group(group).order, torch.float64
    action = (table, [], [], padding_mode, True)
    x, weights = rand(2, 2, *shape, dtype=dtype), rand(2, order, dtype=dtype, seed=1)
    members = rand(order, 2, 2, *shape, dtype=dtype, seed=2)
    element = ids(group, 2)
    for op, args in (("orbit", (x, weights)), ("orbit_average", (members, weights)), ("act", (x, element))):
        eager = sys.modules[f"equifast.ops.{op}"]._eager
        assert_near(getattr(torch.ops.equifast, op)(*args, *action), eager(*args, *action))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("representation", ["regular", "vector"])
def test_transposes_of_representations(representation, dtype):
    group = as_group("D3")
    channels = [list(v) for v in channel_action(group, representation, inverse=True)]
    action = (list(group.action_table(inverse=True)), *channels, "border", True)
    x = rand(2, REPRESENTATIONS[representation](6), 4, 5, dtype=dtype)
    element = torch.tensor([1, 5])
    assert_near(
        torch.ops.equifast.act(x, element, *action), sys.modules["equifast.ops.act"]._eager(x, element, *action)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("group", "shape"), [("C4", (6, 6)), ("C8", (5, 5)), ("D3", (4, 7))])
def test_inner_products(group, shape, dtype):
    table = list(as_group(group).action_table(inverse=True))
    order = as_group(group).order
    shared, members = rand(2, 3, *shape, dtype=dtype), rand(order, 2, 3, *shape, dtype=dtype, seed=1)
    eager = sys.modules["equifast.ops.orbit_inner"]._eager
    for u, v in ((shared, shared.flip(0)), (shared, members), (members, shared)):
        args = (u, v, table, [], [], "border")
        assert_near(torch.ops.equifast.orbit_inner(*args), eager(*args), scale=10)


def test_inner_products_of_images_in_several_parts():
    x, y = rand(1, 1, 70, 70), rand(1, 1, 70, 70, seed=1)
    table = list(as_group("C2").action_table(inverse=True))
    out = torch.ops.equifast.orbit_inner(x, y, table, [], [], "border")
    assert_near(out, torch.stack([(x * y).sum(), (x.flip(2, 3) * y).sum()])[None], scale=4)


@pytest.mark.parametrize("group", ["C4", "C8"])
def test_gradients(group):
    """Through autograd, there and back through every op: each is the others' gradient."""
    order = as_group(group).order
    x, weights = rand(1, 2, 5, 5, dtype=torch.float64), rand(1, order, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, weights)]

    def loss(library):
        y = library.orbit(x, group)
        z = library.orbit_average(y, weights, group=group)
        return library.act(z, torch.tensor([1]), group=group, inverse=True).square().sum()

    kernels, eager = torch.autograd.grad(loss(equifast), leaves), torch.autograd.grad(loss(reference), leaves)
    for ours, theirs in zip(kernels, eager, strict=True):
        assert_near(ours, theirs)


@pytest.mark.parametrize("group", ["C4", "D4", "C8"])
def test_an_orbit_of_a_moved_image_is_the_orbit_permuted(group):
    group, x = as_group(group), rand(1, 3, 6, 6)
    members = orbit(x, group).unflatten(0, (group.order, 1))
    for h in exact_elements(group, (6, 6)):
        moved = orbit(act(x, torch.tensor([h]), group=group), group).unflatten(0, (group.order, 1))
        order = [group.compose(group.inverse(h), e) for e in range(group.order)]
        assert_same(moved, members[order])


@pytest.mark.parametrize("group", ["C4", "C8"])
def test_no_images(group):
    x = rand(0, 3, 5, 5)
    assert orbit(x, group).shape == x.shape
    assert act(x, ids(group, 0), group=group).shape == x.shape
    table = list(as_group(group).action_table(inverse=True))
    assert torch.ops.equifast.orbit_inner(x, x, table, [], [], "border").shape == (0, as_group(group).order)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("group", ["D4", "C8"])
def test_every_configuration(group, adjoint, memory_format, monkeypatch):
    """Tiles larger and smaller than the image, of one plane and of several."""
    x = rand(1, 3, 6, 6).contiguous(memory_format=memory_format)
    args = (x, None, list(as_group(group).action_table(inverse=True)), [], [], "border", adjoint)
    expected = sys.modules["equifast.ops.orbit"]._eager(*args)
    for sizes in ((4, 8, 1), (2, 4, 4)) if adjoint else ((4, 8, 1), (16, 16, 1), (8, 4, 2), (16, 8, 4)):
        config = Config(dict(zip(("BLOCK_I", "BLOCK_J", "BLOCK_C"), sizes, strict=True)))
        monkeypatch.setattr(resample, "configs", lambda *args, config=config, **options: [config])
        _kernel_of_orbit()._launches.clear()
        assert_near(torch.ops.equifast.orbit(*args), expected)
    _kernel_of_orbit()._launches.clear()


def _kernel_of_orbit():
    kernels.load("orbit")
    return launches.KERNELS["orbit"]


def test_offsets_in_64_bits(monkeypatch):
    """As for images that span 2^31 elements and more, which no test can hold."""
    monkeypatch.setattr(resample, "reach", lambda image: 1 << 31)
    for group in ("C4", "C8"):
        _kernel_of_orbit()._launches.clear()
        x = rand(1, 2, 5, 5)
        for adjoint in (False, True):
            args = (x, None, list(as_group(group).action_table(inverse=True)), [], [], "border", adjoint)
            assert_near(torch.ops.equifast.orbit(*args), sys.modules["equifast.ops.orbit"]._eager(*args))
    _kernel_of_orbit()._launches.clear()
