"""The frames in which networks over a group look at images.

Where an element of the group interpolates, members of an orbit differ in how blurred they are: the identity isn't
blurred, a rotation by 45° is, and a network that is asked which member it prefers tells them by that. So the frames of
its members are turned by half a step of the angles at which the grid is met, 90°/n for odd n and 22.5° for C8. Then no
member is exact, and all are equally blurred. Where every element is exact, frames are not turned.
"""

from __future__ import annotations

from math import lcm
from operator import index

from .groups import Group, cosine, remembered


def lifting_table(group: Group, height: int, width: int) -> tuple[float, ...]:
    """The action table of every ``R·g_e⁻¹``, where R turns to the frame: what member e looks at."""
    if group.permutes(height, width):
        return group.action_table(inverse=True)
    return _lifting_table(index(group.n), group.reflections)


def carrying_table(group: Group, height: int, width: int) -> tuple[float, ...]:
    """The action table of every ``R·g_k·R⁻¹``: it carries the map of member e·k into the frame of member e."""
    if group.permutes(height, width):
        return group.action_table(inverse=False)
    return _carrying_table(index(group.n), group.reflections)


@remembered
def _lifting_table(n: int, reflections: bool) -> tuple[float, ...]:
    # R·g⁻¹·x reads x at g·R⁻¹·p, and g·R⁻¹ is a rotation by θ − ½, or by θ + ½ after a flip, in steps.
    return _rows(n, reflections, lambda theta, r: 2 * theta + (1 if r else -1))


@remembered
def _carrying_table(n: int, reflections: bool) -> tuple[float, ...]:
    # R·g·R⁻¹·y reads y at R·g⁻¹·R⁻¹·p: a rotation by −θ, or by θ + 1 after a flip, in steps.
    return _rows(n, reflections, lambda theta, r: 2 * theta + 2 if r else -2 * theta)


def _rows(n: int, reflections: bool, half_steps) -> tuple[float, ...]:
    """Rows of an action table that read at rotations by ``half_steps(θ, r)``, where the flip acts first if r is 1.

    θ is the angle of an element in steps of 360°/lcm(n, 4). A quarter turn is a whole number of half steps, so angles
    that differ by one have the same matrix to the last bit.
    """
    steps = lcm(n, 4)
    quarter = steps // 2
    rows: list[float] = []
    for r in range(2 if reflections else 1):
        for j in range(n):
            quarters, rest = divmod(half_steps(j * steps // n, r) % (2 * steps), quarter)
            c, s = cosine(rest, quarter), cosine(quarter - rest, quarter)
            rows += (quarters + 4 * r, c, s, -s, c)
    return tuple(float(v) for v in rows)
