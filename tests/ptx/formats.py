"""Floating-point formats and their rounding in exact arithmetic: what test_instructions.py holds the executor against.

A number is a Fraction, or a float where it is a zero, infinite or NaN: of these the sign matters, or there is no value.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple


class Format(NamedTuple):
    """``precision``: bits of a mantissa with its leading one; ``exponent``: that of the largest number."""

    width: int
    precision: int
    exponent: int

    @property
    def infinity(self) -> int:
        """The bits of +inf."""
        return (2 * self.exponent + 1) << (self.precision - 1)

    @property
    def sign(self) -> int:
        """The bit of the sign."""
        return 1 << (self.width - 1)


F16 = Format(16, 11, 15)
BF16 = Format(16, 8, 127)
F32 = Format(32, 24, 127)
F64 = Format(64, 53, 1023)
#: As registers hold it: its mantissa has ten bits, and thirteen zeros below them.
TF32 = Format(19, 11, 127)


def number(bits: int, form: Format) -> Fraction | float:
    """The number that some bits stand for."""
    sign = -1 if bits & form.sign else 1
    magnitude = bits & (form.sign - 1)
    if magnitude >= form.infinity:
        return sign * math.inf if magnitude == form.infinity else math.nan
    if magnitude == 0:
        return sign * 0.0
    exponent, mantissa = divmod(magnitude, 1 << (form.precision - 1))
    if exponent:
        mantissa += 1 << (form.precision - 1)
    return sign * mantissa * Fraction(2) ** (max(exponent, 1) - form.exponent - form.precision + 1)


def nearest(quotient: Fraction, mode: str) -> int:
    """An integer: to the nearest, ties to even (rn) or away from zero (rna); towards zero (rz) or down (rm)."""
    if mode == "rm":
        return math.floor(quotient)
    if mode == "rz":
        return math.trunc(quotient)
    if mode == "rna":
        return math.floor(abs(quotient) + Fraction(1, 2)) * (1 if quotient > 0 else -1)
    return round(quotient)


def rounded(value: Fraction | float, form: Format, mode: str = "rn") -> int | None:
    """The bits of a number in a format; None for NaN, whose bits may be any."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return (form.sign if math.copysign(1, value) < 0 else 0) + (form.infinity if math.isinf(value) else 0)
    lowest = 1 - form.exponent - form.precision + 1  # the exponent of the least positive number
    top = math.floor(math.log2(abs(value.numerator)) - math.log2(value.denominator))
    exponent = max(top - form.precision - 1, lowest)
    while abs(value) >= Fraction(2) ** (exponent + form.precision):
        exponent += 1
    quantum = Fraction(2) ** exponent
    whole = nearest(value / quantum, mode)
    sign = form.sign if value < 0 else 0
    magnitude = abs(whole) + ((exponent - lowest) << (form.precision - 1))
    if magnitude >= form.infinity:  # to the largest where that lies in the direction of rounding
        magnitude = form.infinity - (mode == "rz" or (mode == "rm" and value > 0))
    return sign + magnitude


def added(a: Fraction | float, b: Fraction | float, mode: str = "rn") -> Fraction | float:
    """Exactly a + b. Numbers that cancel give +0, or −0 if it is rounded down."""
    if any(isinstance(v, float) and not math.isfinite(v) for v in (a, b)):
        return float(a if isinstance(a, float) else 0) + float(b if isinstance(b, float) else 0)
    total = Fraction(a) + Fraction(b)
    if total:
        return total
    if a == 0 and b == 0 and math.copysign(1, a) == math.copysign(1, b):
        return a
    return -0.0 if mode == "rm" else 0.0


def multiplied(a: Fraction | float, b: Fraction | float) -> Fraction | float:
    """Exactly a · b."""
    if isinstance(a, float) or isinstance(b, float):
        return _small(a) * _small(b)
    return a * b


def divided(a: Fraction | float, b: Fraction | float) -> Fraction | float:
    """Exactly a / b."""
    if isinstance(b, float) and b == 0:
        a = _small(a)
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
    return _small(a) / _small(b) if isinstance(a, float) or isinstance(b, float) else a / b


def root(a: Fraction | float) -> Fraction | float:
    """√a, or a number that is rounded as √a is in any of these formats."""
    if isinstance(a, float):
        return a if a == 0 or a > 0 else math.nan
    if a < 0:
        return math.nan
    scale = 1 << 1200
    square = a.numerator * scale * scale // a.denominator
    whole = math.isqrt(square)
    exact = whole * whole == square and a.numerator * scale * scale % a.denominator == 0
    return Fraction(2 * whole + (not exact), 2 * scale)


def _small(value: Fraction | float) -> float:
    """A float with the sign of a number, and 1 if it is neither zero, infinite nor NaN."""
    return value if isinstance(value, float) else math.copysign(1.0, value)
