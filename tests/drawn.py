"""Arguments of ops that hypothesis draws, by the functions of `tests/samples.py`.

The seed is recorded here, so that every run draws the same. ``EQUIFAST_TEST_SEED`` and ``EQUIFAST_TEST_EXAMPLES`` name
another seed, and how many examples each op gets: ``make fuzz`` sets both. Every run of pytest prints them first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import hypothesis
from hypothesis import assume, given
from hypothesis import strategies as st

from equifast.transform_set import TransformSet

from .cases import GROUPS, LAYOUTS, PADDING_MODES
from .samples import ARGUMENTS, REPRESENTATIONS, Choices, Sample

SEED = int(os.environ.get("EQUIFAST_TEST_SEED") or 20261201)

#: Examples of each op. An example is one to six samples.
EXAMPLES = int(os.environ.get("EQUIFAST_TEST_EXAMPLES") or 100)

#: The longest side of images. Most images are small, since a definition reads every pixel of every element.
LONGEST = 24


@st.composite
def transform_sets(draw) -> TransformSet:
    """Up to eight maps that stretch by 1/8 to 8, and perhaps a flip of each."""
    number, angle = st.floats(-3, 3).map(lambda power: 2.0**power), st.integers(0, 719).map(lambda n: n / 2)
    angles = draw(st.lists(angle, min_size=1, max_size=2, unique=True))
    scales = draw(st.lists(st.tuples(number, number), min_size=1, max_size=2, unique_by=lambda pair: round(pair[0], 3)))
    flips = draw(st.booleans())
    try:
        return TransformSet(angles=angles, scales=scales, flips=flips)
    except ValueError:  # a map is listed twice, as a half turn may be two flips
        assume(False)


class Drawn(Choices):
    """Numbers that hypothesis draws. It shrinks them to the lowest of their range."""

    def __init__(self, draw: Callable, dtypes: Sequence, requires_grad: bool, needs_group: bool):
        self._draw = draw
        group = draw(st.sampled_from(GROUPS) if needs_group else st.one_of(st.sampled_from(GROUPS), transform_sets()))
        has = set(REPRESENTATIONS) - ({"regular"} if isinstance(group, TransformSet) else set())
        super().__init__(
            dtype=draw(st.sampled_from(list(dtypes))),
            group=group,
            representation=draw(st.sampled_from(sorted(has, key=list(REPRESENTATIONS).index))),
            padding_mode=draw(st.sampled_from(PADDING_MODES)),
            flag=draw(st.booleans()),
            batch=draw(st.sampled_from([2, 1, 3, 5, 0])),
            layout=draw(st.sampled_from(list(LAYOUTS))),
            requires_grad=requires_grad,
        )

    def size(self, usual, low, high):
        return self._draw(st.integers(low, high))

    def one_of(self, usual, choices):
        return self._draw(st.sampled_from(choices))

    def shape(self, height, width):
        side = st.one_of(st.integers(1, 8), st.integers(1, LONGEST))
        return self._draw(st.one_of(side.map(lambda n: (n, n)), st.tuples(side, side)))


@st.composite
def drawn_samples(draw, op: str, requires_grad: bool) -> list[Sample]:
    choices = Drawn(draw, ARGUMENTS[op].dtypes, requires_grad, needs_group=op == "angle_inner")
    return [Sample(op, args) for args in ARGUMENTS[op].of(choices)]


def over_drawn(law: Callable[[Sample], None], op: str, examples: int, requires_grad: bool = False) -> None:
    """Hold a law over drawn samples of an op."""

    @hypothesis.seed(SEED)
    @hypothesis.settings(max_examples=examples, suppress_health_check=list(hypothesis.HealthCheck))
    @given(drawn_samples(op, requires_grad))
    def holds(samples):
        for sample in samples:
            law(sample)

    holds()
