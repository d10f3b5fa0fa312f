"""Sets of maps: their list, their rows in an action table, and that they go wherever a group goes."""

import copy
import json
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree

import equifast
from equifast import TransformSet, as_group, canonicalize, geometry, nn, orbit, reference, targets
from equifast.datasets.chooser import Chooser
from equifast.estimators import ESTIMATORS
from equifast.kernels.host import tables
from equifast.transform_set import as_transforms

from .cases import DTYPES, GROUPS, LAYOUTS, SETS, assert_near, assert_same, every, ids, rand
from .definitions import grid_sampled

EXACT = TransformSet(angles=(0, 270), flips=True)
OF_ALL = [*SETS, EXACT]


def rotation(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, s], [-s, c]], dtype=torch.float64)


@st.composite
def matrices(draw):
    """A map that stretches by 1/8 to 8, by its singular values."""
    first, second = (draw(st.floats(-180, 180)) for _ in range(2))
    scales = [2 ** draw(st.floats(-2.999, 2.999)) for _ in range(2)]
    flip = draw(st.sampled_from([1.0, -1.0]))
    return (
        rotation(first) @ torch.tensor([[flip * scales[0], 0], [0, scales[1]]], dtype=torch.float64) @ rotation(second)
    )


def matrix(transforms, e):
    return torch.tensor(transforms.matrix(e), dtype=torch.float64).view(2, 2)


def test_maps_are_products_and_angles_vary_fastest():
    angles, scales, linear = (
        (0, 10, -200.5),
        (1, 0.5, (2, -0.25)),
        (torch.eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
    )
    transforms = TransformSet(angles=angles, flips=True, scales=scales, matrices=torch.stack(linear))
    flip = torch.diag(torch.tensor([-1.0, 1.0], dtype=torch.float64))
    e = 0
    for m in linear:
        for scale in scales:
            stretched = (
                torch.diag(torch.tensor(scale if isinstance(scale, tuple) else (scale, scale)).double()) @ m.double()
            )
            for mirror in (torch.eye(2).double(), flip):
                for angle in angles:
                    torch.testing.assert_close(matrix(transforms, e), rotation(angle) @ mirror @ stretched)
                    e += 1
    assert transforms.order == e == 36


def test_the_identity_comes_first_whether_listed_or_not():
    listed, put = TransformSet(angles=(30, 0, 60)), TransformSet(angles=(30, 60))
    assert listed == put and hash(listed) == hash(put) and listed.order == 3
    assert put.matrix(0) == (1, 0, 0, 1) and put.action_table(inverse=True)[:5] == (0, 1, 0, 0, 1)
    assert listed != TransformSet(angles=(60, 30)) and str(listed) == "TransformSet of 3 maps"


@given(matrices())
def test_rows_are_the_map_and_its_inverse(m):
    transforms = TransformSet(matrices=[m])
    assert geometry.stretch(tuple(m.flatten().tolist())) == pytest.approx(
        sorted(torch.linalg.svdvals(m).tolist()), rel=1e-9
    )
    for inverse in (True, False):
        code, base = geometry.rows(transforms.action_table(inverse=inverse))[-1]
        assert base[0] * base[3] > base[1] * base[2] and base[0] > 0 and base[1] >= 0
        assert all(math.copysign(1, v) > 0 for v in base if v == 0)
        whole = torch.tensor(
            geometry.matrices_of(transforms.action_table(inverse=inverse))[-1], dtype=torch.float64
        ).view(2, 2)
        torch.testing.assert_close(whole, m if inverse else m.inverse(), rtol=1e-12, atol=1e-13)
    assert matrix(transforms, -1).equal(m)


@pytest.mark.parametrize("group", [*GROUPS, as_group("C36"), as_group("C99")], ids=str)
def test_a_list_of_a_groups_elements_is_the_group(group):
    transforms = TransformSet(angles=[360 * j / group.n for j in range(group.n)], flips=group.reflections)
    assert as_transforms(transforms) == transforms.as_group() == as_group(transforms) == group
    assert canonicalize(rand(1, 1, 5, 5), group=transforms, activations=rand(1, group.order)).group == group


@pytest.mark.parametrize("shape", [(7, 7), (8, 5)], ids=str)
@pytest.mark.parametrize("group", GROUPS[2:], ids=str)
def test_in_another_order_members_are_those_of_the_group(group, shape):
    """Bit for bit, and so is what follows them."""
    order = [0, *range(group.order - 1, 0, -1)]
    turns = [(e % group.n, e // group.n) for e in order]
    flips = [((-1.0, 0.0), (0.0, 1.0)), ((1.0, 0.0), (0.0, 1.0))]
    maps = [
        TransformSet(angles=[360 * j / group.n], matrices=[flips[1 - r]]).matrix(-1) if (j, r) != (0, 0) else flips[1]
        for j, r in turns
    ]
    transforms = TransformSet(matrices=[m if len(m) == 2 else (m[:2], m[2:]) for m in maps])
    x, members = rand(1, 2, *shape), rand(group.order, 2, *shape)
    assert_same(orbit(x, transforms), orbit(x, group)[order])
    for options in ({"inverse": True}, {"inverse": False, "representation": "vector"}):
        ours = equifast.act(members, every(transforms), group=transforms, **options)
        assert_same(ours, equifast.act(members, torch.tensor(order), group=group, **options))
    for e, of_group in enumerate(order):
        assert transforms.is_exact(e, *shape) == group.is_exact(of_group, *shape)


@given(matrices(), matrices(), st.sampled_from([(9, 9), (8, 13)]), st.sampled_from(["border", "zeros"]))
def test_an_orbit_is_read_by_grid_sample(first, second, shape, padding_mode):
    if (first - second).abs().max() < 1e-9:
        return
    transforms, x = TransformSet(matrices=[first, second]), rand(1, 2, *shape, dtype=torch.float64)
    members = orbit(x, transforms, padding_mode=padding_mode)
    for e in range(transforms.order):
        # Positions are rounded to 2⁻²⁴ pixel.
        expected = grid_sampled(x, transforms.matrix(e), padding_mode)
        torch.testing.assert_close(members[e : e + 1], expected, rtol=0, atol=1e-5)


@given(matrices(), st.sampled_from([(6, 6), (5, 8), (1, 4)]), st.sampled_from(["border", "zeros"]), st.booleans())
def test_a_transpose_is_the_adjoint_of_its_map(m, shape, padding_mode, inverse):
    transforms = TransformSet(matrices=[m])
    table = list(transforms.action_table(inverse=inverse))
    x, y = rand(2, 2, *shape, dtype=torch.float64), rand(2, 2, *shape, dtype=torch.float64, seed=1)
    element = torch.tensor([transforms.order - 1, 0])

    def act(images, adjoint):
        return torch.ops.equifast.act(images, element, table, [], [], padding_mode, adjoint)

    torch.testing.assert_close((act(x, False) * y).sum(), (x * act(y, True)).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"angles": ()}, ValueError, "angles: expected at least one"),
        ({"angles": 30}, TypeError, "angles: expected a list"),
        ({"angles": ["a"]}, TypeError, "angles: expected numbers, got 'a'"),
        ({"angles": [math.nan]}, ValueError, "angles: expected finite numbers"),
        ({"angles": [0, 720]}, ValueError, "expected each map once, but numbers 0 and 1 are both"),
        ({"flips": 1}, TypeError, "flips: expected a bool"),
        ({"scales": [0]}, ValueError, "expected maps that can be inverted"),
        ({"scales": [(1, 2, 3)]}, ValueError, "scales: expected numbers or pairs"),
        ({"scales": [9]}, ValueError, "stretch lengths by 1/8 to 8, got .* by 9 to 9"),
        ({"scales": [(1, 0.1)]}, ValueError, "stretches them by 0.1 to 1"),
        ({"matrices": [[1, 0, 0, 1]]}, ValueError, r"matrices\[0\]: expected 2 × 2 numbers"),
        ({"matrices": [[[1, 2], [2, 4]]]}, ValueError, "expected maps that can be inverted"),
        ({"matrices": torch.full((1, 2, 2), math.inf)}, ValueError, "expected finite numbers"),
    ],
)
def test_what_is_no_list_of_maps_is_refused_by_name(options, error, text):
    with pytest.raises(error, match=text):
        TransformSet(**options)


@pytest.mark.parametrize("base", [(0, 0, 0, 1), (9, 0, 0, 1), (1, 1, 1, 1), (math.nan, 0, 0, 1), (math.inf, 0, 0, 1)])
def test_kernels_refuse_a_table_that_they_can_not_count(base):
    """Whoever calls the torch ops themselves: in the library for CPUs, and where Triton kernels are planned."""
    table = [0.0, *map(float, base)]
    with pytest.raises((RuntimeError, ValueError), match="table: expected .*stretch by 1/8 to 8"):
        torch.ops.equifast.orbit(rand(1, 1, 5, 5), None, table, [], [], "border", False)
    with pytest.raises(ValueError, match="table: expected matrices that stretch by 1/8 to 8.*row 0"):
        tables.actions(tuple(table), True)


def test_what_composes_elements_refuses_a_set():
    x, transforms, network = rand(2, 6, 8, 8), SETS[1], nn.ConvNetwork((3, 8, 8), 4, 3, 2)
    refused = [
        lambda: as_group(transforms),
        lambda: equifast.gate_curve(rand(2, 6), rand(2, 6), [1.0], group=transforms),
        lambda: canonicalize(x, group=transforms, activations=rand(2, transforms.order), estimator="angle"),
        lambda: nn.Canonicalizer(network, transforms, estimator="angle"),
        lambda: nn.EquivariantNetwork((3, 8, 8), group=transforms),
        lambda: nn.LiftConv2d(3, 4, 3, transforms),
        lambda: nn.GroupConv2d(3, 4, 3, transforms),
        lambda: nn.PooledGroupConv2d(3, 4, 3, transforms),
        lambda: reference.group_conv2d(x, rand(1, 36, 3, 3), group=transforms),
        lambda: Chooser(nn.Canonicalizer(network, transforms)),
    ]
    for call in refused:
        with pytest.raises(ValueError, match="group: expected a group such as 'C4'.*TransformSet of 6 maps"):
            call()
    form = canonicalize(x, group=transforms, activations=rand(2, transforms.order))
    regular = [
        lambda: equifast.act(x, ids(transforms, 2), group=transforms, representation="regular"),
        lambda: form.invert(x, "regular"),
        lambda: form.average(lambda y: y, x, representation="regular"),
        lambda: equifast.symmetrize(lambda y: y, transforms, representation="regular"),
    ]
    for call in regular:
        with pytest.raises(ValueError, match="representation: 'regular' permutes the elements of a group"):
            call()


@pytest.mark.parametrize("estimator", sorted(set(ESTIMATORS) - {"angle"}))
@pytest.mark.parametrize("transforms", OF_ALL, ids=range(len(OF_ALL)))
def test_canonicalize_undoes_the_chosen_map(transforms, estimator):
    x, activations = rand(3, 3, 9, 9), rand(3, transforms.order).requires_grad_()
    activations.data[2, 1] = math.nan
    torch.manual_seed(0)
    form = canonicalize(x.requires_grad_(), group=transforms, activations=activations, estimator=estimator)
    assert form.element[2] == 0
    if estimator != "soft":
        assert_same(form.image, equifast.act(x, form.element, group=transforms, inverse=True))
    upstream = rand(3, 3, 9, 9, seed=3)
    grad_x, grad = torch.autograd.grad(form.image, (x, activations), upstream, allow_unused=True)
    if estimator in ("soft", "straight_through"):
        # The definition: the expectation of the members.
        members = reference.orbit(x, transforms).unflatten(0, (-1, 3))
        weights = activations[:2].softmax(1).t()[:, :, None, None, None]
        expected = torch.autograd.grad((weights * members[:, :2]).sum(0), (x, activations), upstream[:2])
        assert_near(grad_x[:2], expected[0][:2], 4)
        assert_near(grad[:2], expected[1][:2], 20)
    assert grad is None or grad[2].abs().max() == 0
    gated = canonicalize(x, group=transforms, activations=activations, gate=10.0)
    assert_same(gated.image, x)


def test_what_a_network_sees_is_the_orbit():
    """Of all ways to a vector: a lazy orbit, a fused one, and layers that make the orbit themselves."""
    x, network = (
        rand(2, 3, 12, 12),
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU(), torch.nn.Flatten()),
    )
    for transforms in OF_ALL:
        expected = network(orbit(x, transforms))
        assert_near(equifast.fuse_first_layer(network, transforms)(x), expected)
        form = canonicalize(x, network, rand(expected.shape[1]), group=transforms)
        assert_near(form.vectors.transpose(0, 1).flatten(0, 1), expected)
        layer = nn.OrbitConv2d.from_conv(network[0], transforms)
        assert_near(layer(x), network[0](orbit(x, transforms)))
        pooled = nn.PooledOrbitConv2d(3, 4, 3, transforms, activation="relu")
        of_orbit = torch.nn.functional.conv2d(orbit(x, transforms), pooled.weight, pooled.bias).relu().mean((2, 3))
        assert_near(pooled(x), of_orbit)
        assert_same(
            nn.TinyCanonicalizer(3, transforms, channels=4, kernel_size=3)(x).image[:, :, 6, 6].isnan(),
            x.new_zeros(2, 3) > 1,
        )
    with pytest.raises(ValueError, match="makes the orbit of TransformSet of 4 maps"):
        canonicalize(x, equifast.fuse_first_layer(network, EXACT), rand(100), group=SETS[0])


@pytest.mark.parametrize("representation", ["invariant", "trivial", "vector"])
def test_averages_are_those_of_the_reference(representation):
    x, transforms = rand(2, 2, 9, 9), SETS[1]
    form = canonicalize(x, group=transforms, activations=rand(2, transforms.order))

    def model(y):
        return y.sin().mean((2, 3)) if representation == "invariant" else y.sin()

    for top_k in (1, 3, transforms.order):
        options = {"top_k": top_k, "weights": "probabilities", "representation": representation}
        scores = form.activations, form.probabilities
        assert_near(
            form.average(model, x, **options), reference.average(model, x, *scores, group=transforms, **options)
        )
    together = equifast.symmetrize(model, transforms, representation=representation)(x)
    equal = torch.zeros(2, transforms.order), torch.full((2, transforms.order), 1 / transforms.order)
    options = {"top_k": transforms.order, "weights": "equal", "representation": representation}
    assert_near(together, reference.average(model, x, *equal, group=transforms, **options))


@pytest.mark.parametrize("transforms", OF_ALL, ids=range(len(OF_ALL)))
def test_vectors_are_moved_by_the_map_itself(transforms):
    field, element = rand(transforms.order, 2, 7, 7, dtype=torch.float64), every(transforms)
    for inverse in (True, False):
        options = {"group": transforms, "inverse": inverse}
        moved = equifast.act(field, element, representation="vector", **options)
        maps = torch.stack([matrix(transforms, e) for e in range(transforms.order)])
        maps = maps.inverse() if inverse else maps
        plain = equifast.act(field, element, **options)
        torch.testing.assert_close(moved, torch.einsum("eik,ekhw->eihw", maps, plain))


@pytest.mark.parametrize("transforms", OF_ALL, ids=range(len(OF_ALL)))
def test_targets_follow_their_images(transforms):
    order, size = transforms.order, (9, 12)
    element, points = every(transforms), rand(order, 5, 2, dtype=torch.float64) * 4 + 4
    maps = torch.stack([matrix(transforms, e) for e in range(order)])
    centre = torch.tensor([5.5, 4.0], dtype=torch.float64)
    moved = targets.act_points(points, element, group=transforms, size=size)
    torch.testing.assert_close(moved, torch.einsum("eik,enk->eni", maps, points - centre) + centre)
    back = targets.act_points(moved, element, group=transforms, size=size, inverse=True)
    torch.testing.assert_close(back, points)
    boxes = torch.cat((points, points + rand(order, 5, 2, dtype=torch.float64).abs()), -1)
    hull = targets.act_boxes(boxes, element, group=transforms, size=size)
    corners = boxes[..., [0, 1, 0, 3, 2, 1, 2, 3]].unflatten(-1, (4, 2)) - centre - 0.5
    corners = torch.einsum("eik,enck->enci", maps, corners) + centre + 0.5
    torch.testing.assert_close(hull, torch.cat((corners.amin(2), corners.amax(2)), -1))
    labels = torch.arange(1, 1 + 9 * 12).view(1, 9, 12).expand(order, 9, 12)
    for inverse in (True, False):
        taken = targets.act_masks(labels, element, group=transforms, inverse=inverse)
        # An output takes the pixel nearest to where it reads; ties are left to the laws of groups.
        y, x = torch.meshgrid(torch.arange(9.0).double() - 4, torch.arange(12.0).double() - 5.5, indexing="ij")
        read = torch.einsum("eik,khw->eihw", maps if inverse else maps.inverse(), torch.stack((x, y)))
        column, row = read[:, 0] + 5.5, read[:, 1] + 4
        clear = ((column % 1 - 0.5).abs() > 1e-6) & ((row % 1 - 0.5).abs() > 1e-6)
        inside = (column > -0.5) & (column < 11.5) & (row > -0.5) & (row < 8.5)
        nearest = torch.where(inside, row.round() * 12 + column.round() + 1, 0).long()
        assert torch.equal(taken[clear], nearest[clear]) and clear.any()


@pytest.mark.parametrize("transforms", OF_ALL, ids=range(len(OF_ALL)))
def test_a_set_comes_back_from_wherever_it_was_put(transforms, tmp_path):
    form = canonicalize(rand(2, 3, 8, 8), group=transforms, activations=rand(2, transforms.order))
    torch.save(form, tmp_path / "form.pt")
    leaves, spec = _pytree.tree_flatten(form)
    spec = _pytree.treespec_loads(_pytree.treespec_dumps(spec))
    loaded = torch.load(tmp_path / "form.pt", weights_only=True)
    copies = [copy.deepcopy(form), pickle.loads(pickle.dumps(form)), loaded, _pytree.tree_unflatten(leaves, spec)]
    for other in copies:
        assert other.group == transforms and other.group.action_table(inverse=True) == transforms.action_table(
            inverse=True
        )
        assert_same(other.invert(other.image), form.invert(form.image))
    assert as_transforms(json.loads(json.dumps(transforms.name))) == transforms == eval(repr(transforms))


@pytest.mark.parametrize("described", [False, True])
def test_a_canonicalizer_is_saved_with_its_set(described, tmp_path):
    pytest.importorskip("safetensors")
    make = (
        nn.TinyCanonicalizer(3, SETS[1], channels=4)
        if described
        else nn.Canonicalizer(torch.nn.Flatten(), SETS[1], vector_size=192)
    )
    make.eval().save_pretrained(tmp_path)
    again = nn.Canonicalizer.from_pretrained(tmp_path, **({} if described else {"network": torch.nn.Flatten()}))
    x = rand(2, 3, 8, 8)
    assert again.group == SETS[1] and torch.equal(again(x).image, make(x).image)


def test_a_compiler_takes_a_set_as_a_constant():
    transforms = SETS[2]
    module = nn.Canonicalizer(nn.ConvNetwork((3, 16, 16), 4, 3, 2), transforms).eval()
    x = rand(2, 3, 16, 16)
    form = module(x)
    compiled = torch.compile(module, fullgraph=True, backend="eager")(x)
    assert compiled.group == transforms and torch.equal(compiled.element, form.element)
    assert_near(compiled.image, form.image)

    def there_and_back(x):
        form = canonicalize(
            x, group=transforms.name, activations=x.mean((1, 2, 3))[:, None].expand(-1, transforms.order)
        )
        return _pytree.tree_map(lambda t: t, form).invert(form.image)

    assert_near(torch.compile(there_and_back, fullgraph=True, backend="eager")(x), there_and_back(x))
    exported = torch.export.export(module, (x,)).module()
    assert exported(x).group == transforms


@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
@pytest.mark.parametrize("transforms", SETS[1:], ids=range(1, len(SETS)))
def test_gradcheck(transforms, padding_mode):
    order, size = transforms.order, (4, 5)
    x, y = rand(1, 2, *size, dtype=torch.float64), rand(order, 2, *size, dtype=torch.float64, seed=1)
    weights, kernel = rand(1, order, dtype=torch.float64), rand(3, 2, 3, 2, dtype=torch.float64)
    options = {"group": transforms, "padding_mode": padding_mode}
    vector = options | {"representation": "vector"}
    linear = [
        (lambda x: orbit(x, **options), (x,)),
        (lambda y: equifast.act(y, every(transforms), **vector), (y,)),
        (lambda y: equifast.act(y, every(transforms), inverse=True, **options), (y,)),
        (lambda y, weights: equifast.orbit_average(y, weights, **vector), (y, weights)),
    ]
    once = [(lambda x, kernel: equifast.orbit_conv2d(x, kernel, **options), (x, kernel))]
    for twice, cases in ((True, linear), (False, once)):
        for function, leaves in cases:
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
            assert not twice or torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_dtype_nan_and_no_images(layout, dtype):
    for transforms in SETS[1:3]:
        x = LAYOUTS[layout](rand(3, 4, 9, 8, dtype=dtype))
        if 0 not in x.stride():  # no two pixels are one
            x[1, 2, 4, 3] = math.nan
        assert_same(orbit(x, transforms), reference.orbit(x.contiguous(), transforms))
        element = ids(transforms, 3)
        assert_same(
            equifast.act(x, element, group=transforms), reference.act(x.contiguous(), element, group=transforms)
        )
        none = x[:0]
        assert orbit(none, transforms).shape == none.shape == equifast.act(none, element[:0], group=transforms).shape
