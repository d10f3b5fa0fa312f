"""Group algebra: the laws of composition, matrices, and the action tables that kernels read."""

import copy
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equifast import CyclicGroup, DihedralGroup, as_group
from equifast.groups import ROW, multiply, quarter_turn

from .cases import GROUPS, is_exact

groups = st.sampled_from(GROUPS)


@st.composite
def elements(draw, count):
    group = draw(groups)
    return group, *(draw(st.integers(0, group.order - 1)) for _ in range(count))


def closed_form(group, e):
    """R(2πj/n)·F^r on (x right, y down), where counter-clockwise as displayed is y upwards."""
    j, r = e % group.n, e // group.n
    c, s = math.cos(2 * math.pi * j / group.n), math.sin(2 * math.pi * j / group.n)
    return (-c if r else c, s, s if r else -s, c)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 8)], ids=str)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_permutes_where_no_element_interpolates(group, size):
    assert group.permutes(*size) == all(is_exact(group, e, size) for e in range(group.order))


@given(elements(3))
def test_composition_is_a_group(case):
    group, g, h, k = case
    assert group.compose(g, group.compose(h, k)) == group.compose(group.compose(g, h), k)
    assert group.compose(g, 0) == group.compose(0, g) == g
    assert group.compose(g, group.inverse(g)) == group.compose(group.inverse(g), g) == 0
    assert group.inverse(group.inverse(g)) == g


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_composition_is_a_latin_square(group):
    everything = list(range(group.order))
    for g in everything:
        assert sorted(group.compose(g, h) for h in everything) == everything
        assert sorted(group.compose(h, g) for h in everything) == everything


@given(elements(2))
def test_matrices_multiply_as_elements_compose(case):
    group, g, h = case
    assert multiply(group.matrix(g), group.matrix(h)) == pytest.approx(group.matrix(group.compose(g, h)), abs=1e-15)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_matrices_are_the_closed_form_and_exact_where_they_can_be(group):
    for e in range(group.order):
        matrix = group.matrix(e)
        assert matrix == pytest.approx(closed_form(group, e), abs=1e-15)
        snapped = tuple(float(round(v)) for v in matrix)
        if matrix == pytest.approx(snapped, abs=1e-9):
            assert matrix == snapped
            assert is_exact(group, e, (5, 5))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_action_table_factors_into_a_small_rotation_and_a_permutation(group, inverse):
    table = group.action_table(inverse=inverse)
    assert len(table) == ROW * group.order
    bases = set()
    for e in range(group.order):
        code, *base = table[ROW * e : ROW * (e + 1)]
        assert code in range(8)
        a, b, c, d = base
        assert (a, b) == (d, -c)
        assert 0 <= b < a or 0 <= b <= 1 and 0 < a <= 1
        assert a * a + b * b == pytest.approx(1, abs=1e-15)
        # An image moved by g is read at g⁻¹p.
        read = group.matrix(e) if inverse else group.matrix(group.inverse(e))
        assert multiply(tuple(base), quarter_turn(int(code))) == pytest.approx(read, abs=1e-15)
        bases.add(tuple(base))
    assert len(bases) == group.n // math.gcd(group.n, 4)


@pytest.mark.parametrize("code", range(8))
def test_quarter_turns_are_signed_permutations(code):
    turn, flip = (0.0, 1.0, -1.0, 0.0), (-1.0, 0.0, 0.0, 1.0)
    expected = (1.0, 0.0, 0.0, 1.0)
    for factor in [turn] * (code % 4) + [flip] * (code // 4):
        expected = multiply(expected, factor)
    assert quarter_turn(code) == expected


@pytest.mark.parametrize("name", list(map(str, GROUPS)))
def test_names_and_ids_round_trip(name):
    group = as_group(name)
    assert as_group(group) is group
    assert (group.name, str(group)) == (name, name)
    assert group == (DihedralGroup if name[0] == "D" else CyclicGroup)(int(name[1:]))
    assert len({group, as_group(name), copy.deepcopy(group), pickle.loads(pickle.dumps(group))}) == 1
    assert group.order == int(name[1:]) * (2 if name[0] == "D" else 1)
    assert [group.element(*group.split(e)) for e in range(group.order)] == list(range(group.order))
    assert group.element(-1) == group.n - 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CyclicGroup(0), ValueError, "n: expected at least 1 rotation, got 0"),
        (lambda: DihedralGroup(-3), ValueError, "n: expected at least 1 rotation, got -3"),
        (lambda: CyclicGroup(4.0), TypeError, "n: expected an int, got float"),
        (lambda: CyclicGroup(True), TypeError, "n: expected an int, got bool"),
        (lambda: as_group(4), TypeError, "group: expected a Group or a name such as 'C4', got int"),
        (lambda: as_group(None), TypeError, "group: .*got NoneType"),
        *(
            (lambda name=name: as_group(name), ValueError, f"group: expected 'C<n>' or 'D<n>'.*got {name!r}")
            for name in ("", "C", "C0", "c4", "E4", "C04", "D-1", "C4 ", "C4.0", "CC4")
        ),
        (lambda: as_group("C4").split(4), ValueError, r"element: expected an id in \[0, 4\) for C4, got 4"),
        (lambda: as_group("D4").split(-1), ValueError, r"element: expected an id in \[0, 8\) for D4, got -1"),
        (lambda: as_group("C4").inverse(7), ValueError, r"element: .*got 7"),
        (lambda: as_group("C4").compose(0, 4), ValueError, r"element: .*got 4"),
        (lambda: as_group("C4").element(0, 1), ValueError, "reflection: C4 has none numbered 1"),
        (lambda: as_group("D4").element(0, 2), ValueError, "reflection: D4 has none numbered 2"),
    ],
)
def test_bad_groups_and_ids_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
