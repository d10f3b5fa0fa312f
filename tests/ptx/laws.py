"""What the manual of PTX ISA 9.0 says of each instruction that computes, in exact arithmetic.

A law takes the bits of the operands and gives the bits of the result: an integer, or None where they may be any NaN, or
a range of them where the manual allows an error. Nothing here knows how the executor computes.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from .formats import BF16, F16, F32, F64, TF32, Format, added, divided, multiplied, number, root, rounded

FORMATS = {"f16": F16, "bf16": BF16, "f32": F32, "f64": F64}

Bits = int | None | range


class Undefined(Exception):
    """The manual doesn't define the result for these operands."""


def is_nan(value: Fraction | float) -> bool:
    return isinstance(value, float) and math.isnan(value)


def signed(bits: int, width: int) -> int:
    return bits % 2**width - (bits >> (width - 1) & 1) * 2**width


def read(kind: str, bits: int):
    """The number that some bits are, as one of a type such as s32, u64, b16 or f32."""
    if kind in FORMATS:
        return number(bits, FORMATS[kind])
    width = int(kind[1:])
    return signed(bits, width) if kind[0] == "s" else bits % 2**width


def written(kind: str, value, mode: str = "rn") -> Bits:
    return rounded(value, FORMATS[kind], mode) if kind in FORMATS else value % 2 ** int(kind[1:])


def truncated(a: int, b: int) -> int:
    if b == 0:
        raise Undefined
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def largest(a, b):
    """The number of a number and a NaN; +0 is more than −0."""
    if is_nan(a) or is_nan(b):
        return b if is_nan(a) else a
    return max((a, b), key=lambda v: (v, math.copysign(1, v)))


def smallest(a, b):
    """The number of a number and a NaN; −0 is less than +0."""
    if is_nan(a) or is_nan(b):
        return b if is_nan(a) else a
    return min((a, b), key=lambda v: (v, math.copysign(1, v)))


def compared(how: str, a, b) -> bool:
    """Of floating-point numbers, ``ne`` is false where one is a NaN, as all are but ``nan`` and those that end in u."""
    if is_nan(a) or is_nan(b):
        return how == "nan" or how.endswith("u")
    if how in ("nan", "num"):
        return how == "num"
    return getattr(operator, how.removesuffix("u"))(a, b)


def inserted(a: int, b: int, first: int, count: int) -> int:
    bits = [b >> i & 1 for i in range(32)]
    for i in range(min(count % 256, 32)):
        if first % 256 + i < 32:
            bits[first % 256 + i] = a >> i & 1
    return sum(bit << i for i, bit in enumerate(bits))


def extracted(kind: str) -> Callable[[int, int, int], Bits]:
    """Bits of a number of 32 bits from ``first`` on; of a signed one, the last of them, or its own sign, above them."""

    def law(a: int, first: int, count: int) -> Bits:
        first, count = first % 256, count % 256
        sign = a >> min(first + count - 1, 31) & 1 if kind == "s32" and count else 0
        bits = [a >> (first + i) & 1 if i < count and first + i < 32 else sign for i in range(32)]
        return sum(bit << i for i, bit in enumerate(bits))

    return law


def permuted(a: int, b: int, chosen: int) -> Bits:
    """Four of the eight bytes of a and b, or eight times the sign of one."""
    out = bytearray()
    for nibble in (chosen >> shift & 15 for shift in (0, 4, 8, 12)):
        byte = (a.to_bytes(4, "little") + b.to_bytes(4, "little"))[nibble % 8]
        out.append((255 if byte >= 128 else 0) if nibble >= 8 else byte)
    return int.from_bytes(out, "little")


#: Laws of numbers that are the same for every type.
GENERAL: dict[str, Callable] = {
    "mul.lo": operator.mul,
    "mul.wide": operator.mul,
    "mad.lo": lambda a, b, c: a * b + c,
    "mad.wide": lambda a, b, c: a * b + c,
    "div": truncated,
    "rem": lambda a, b: a - truncated(a, b) * b,
    "min": min,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "not": operator.inv,
    "shl": lambda a, n: a << min(n, 64),
    "shr": lambda a, n: a >> min(n, 64),
    "bfi": inserted,
    "shf.l.wrap": lambda a, b, n: ((b << 32 | a) << n % 32) >> 32,
    "add": operator.add,
    "sub": operator.sub,
    "neg": operator.neg,
    "abs": abs,
    "max": max,
    "mov": lambda a: a,
    "selp": lambda a, b, p: a if p else b,
}

FLOATING: dict[str, Callable] = {
    "add": added,
    "sub": lambda a, b: added(a, -b),
    "mul": multiplied,
    "div": divided,
    "rcp": lambda a: divided(Fraction(1), a),
    "sqrt": root,
    "max": largest,
    "min": smallest,
}


def _floating(name: str, kind: str, mode: str) -> Callable[..., Bits]:
    form = FORMATS[kind]
    of_bits: dict[str, Callable[..., Bits]] = {  # these keep what a NaN is
        "mov": lambda a: a,
        "selp": lambda a, b, p: a if p else b,
        "neg": lambda a: a ^ form.sign,
        "abs": lambda a: a & ~form.sign,
        "copysign": lambda a, b: (a & form.sign) | (b & ~form.sign),
    }
    if name in of_bits:
        return of_bits[name]
    fused = {"fma": lambda a, b, c: added(multiplied(a, b), c, mode)}
    law = (FLOATING | fused)[name]
    return lambda *bits: written(kind, law(*(number(b, form) for b in bits)), mode)


def _flushed(value: Fraction | float, form: Format) -> Fraction | float:
    if isinstance(value, Fraction) and abs(value) < Fraction(2) ** (1 - form.exponent):
        return math.copysign(0.0, value)
    return value


def flushing(law: Callable[..., Bits]) -> Callable[..., Bits]:
    """A law of float32 in which subnormal operands are zeros of their sign, and so are subnormal results."""

    def zero(bits: int) -> int:
        return bits & F32.sign if bits & 0x7F800000 == 0 else bits

    def flushed(*bits: int) -> Bits:
        found = law(*map(zero, bits))
        if isinstance(found, range):
            return range(min(zero(found[0]), found[0]), max(zero(found[-1]), found[0]) + 1)
        return None if found is None else zero(found)

    return flushed


def power_of_two(bits: int) -> Bits:
    """ex2.approx: within a relative error of 2^-22, or the nearest subnormal number."""
    x = number(bits, F32)
    if is_nan(x) or x in (math.inf, -math.inf):
        return None if is_nan(x) else rounded(math.inf if x > 0 else 0.0, F32)
    if not -151 < x < 128:
        return rounded(math.inf if x > 0 else 0.0, F32)
    whole = math.floor(x)
    exact = Fraction(2.0 ** float(x - whole)) * Fraction(2) ** whole  # within 2^-52
    low, high = (rounded(exact * (1 + Fraction(s, 2**22)), F32, "rm") for s in (-1, 1))
    return range(low, high + 1 + (high < 1 << 23))


def near(exact: Callable[..., Fraction | float], units: int) -> Callable[..., Bits]:
    """A law of float32 whose result lies so many units in the last place from an exact one, or nearer."""

    def law(*bits: int) -> Bits:
        value = exact(*(number(b, F32) for b in bits))
        if isinstance(value, float):
            return rounded(value, F32)
        found = rounded(value, F32)
        sign, magnitude = found & F32.sign, found & ~F32.sign
        return range(sign + max(magnitude - units, 0), sign + min(magnitude + units, F32.infinity) + 1)

    return law


def rough_reciprocal(bits: int) -> Bits:
    """rcp.approx.ftz.f64: of the upper 32 bits, in as many; here within 2^-19."""
    x = _flushed(number(bits >> 32 << 32, F64), F64)
    if isinstance(x, float):
        return rounded(divided(Fraction(1), x), F64)
    exact = divided(Fraction(1), x)
    if abs(exact) < Fraction(2) ** -1022:
        return rounded(math.copysign(0.0, exact), F64)
    ends = sorted(rounded(exact * (1 + Fraction(s, 2**19)), F64, "rz") for s in (-1, 1))
    return range(ends[0], ends[1] + 1)


def _to_integer(to: str, kind: str) -> Callable[[int], Bits]:
    width = int(to[1:])
    least, most = -(1 << (width - 1)), (1 << (width - 1)) - 1

    def law(bits: int) -> Bits:
        value = number(bits, FORMATS[kind])
        if is_nan(value):
            return 0 if (to, kind) == ("s32", "f32") else 1 << (width - 1)
        if value in (math.inf, -math.inf):
            return (most if value > 0 else least) % 2**width
        return min(max(math.trunc(value), least), most) % 2**width

    return law


def _to_whole(kind: str, mode: str) -> Callable[[int], Bits]:
    """What becomes zero keeps its sign."""

    def law(bits: int) -> Bits:
        value = number(bits, FORMATS[kind])
        if isinstance(value, float):
            return rounded(value, FORMATS[kind])
        whole = {"rmi": math.floor, "rpi": math.ceil, "rni": round}[mode](value)
        return rounded(Fraction(whole) if whole else math.copysign(0.0, value), FORMATS[kind])

    return law


def saturated(bits: int) -> Bits:
    value = number(bits, F32)
    return 0 if is_nan(value) or value <= 0 else rounded(min(Fraction(1), value), F32)


def to_tf32(bits: int) -> Bits:
    """Ties away from zero; the thirteen bits below the mantissa are zeros."""
    found = rounded(number(bits, F32), TF32, "rna")
    return None if found is None else found << 13


def _narrowed(kind: str) -> Callable[[int], Bits]:
    def law(bits: int) -> Bits:
        found = rounded(number(bits, F32), FORMATS[kind])
        return 0x7FFF if found is None else found

    return law


def _paired(kind: str) -> Callable[[int, int], Bits]:
    """The first above the second."""
    return lambda high, low: _narrowed(kind)(low) + (_narrowed(kind)(high) << 16)


def _converted(to: str, kind: str, mode: str) -> Callable[[int], Bits]:
    if mode in ("rmi", "rpi", "rni"):
        return _to_whole(kind, mode)
    if mode == "rzi":
        return _to_integer(to, kind)
    if to in ("f16", "bf16"):
        return _narrowed(to)

    def law(bits: int) -> Bits:
        value = read(kind, bits)
        if isinstance(value, int) and to in FORMATS:
            value = Fraction(value) if value else 0.0
        return written(to, value)

    return law


OWN: dict[str, Callable[..., Bits]] = {
    "bfe.s32": extracted("s32"),
    "bfe.u32": extracted("u32"),
    "abs.f16x2": lambda a: a & 0x7FFF7FFF,
    "prmt.b32": permuted,
    "div.full.f32": near(divided, 2),
    "sqrt.approx.ftz.f32": flushing(near(root, 1)),
    "ex2.approx.f32": power_of_two,
    "ex2.approx.ftz.f32": flushing(power_of_two),
    "rcp.approx.ftz.f64": rough_reciprocal,
    "cvt.sat.f32.f32": saturated,
    "cvt.rna.tf32.f32": to_tf32,
    "cvta.to.global.u64": lambda a: a,
    "and.pred": operator.and_,
    "or.pred": operator.or_,
    "xor.pred": operator.xor,
    "not.pred": lambda a: 1 - a,
    "mov.pred": lambda a: a,
}


def law(opcode: str) -> Callable[..., Bits]:
    """The law of an instruction. Raises KeyError if none is known."""
    if opcode in OWN:
        return OWN[opcode]
    if ".ftz." in opcode:
        return flushing(law(opcode.replace(".ftz", "")))
    if found := re.fullmatch(r"cvt\.rn\.(b?f16)x2\.f32", opcode):
        return _paired(found[1])
    if found := re.fullmatch(r"cvt(?:\.(r\w+))?\.(\w+)\.(\w+)", opcode):
        return _converted(found[2], found[3], found[1] or "")
    if found := re.fullmatch(r"setp\.(\w+)\.(\w+)", opcode):
        return lambda a, b: int(compared(found[1], read(found[2], a), read(found[2], b)))
    name, mode, kind = re.fullmatch(
        r"([a-z]+(?:\.lo|\.hi|\.wide|\.l\.wrap)?)(?:\.(r[nm]))?\.([a-z]+\d+)", opcode
    ).groups()
    if kind in FORMATS:
        return _floating(name, kind, mode or "rn")
    width = int(kind[1:])
    general = GENERAL.get(name) or {"mul.hi": lambda a, b: a * b >> width}[name]
    amount, all_ = (1,), (0, 1, 2, 3)  # that of a shift is unsigned
    as_it_is = {"shl": amount, "shr": amount, "bfi": all_, "shf.l.wrap": all_, "selp": all_, "mad.wide": (2,)}.get(
        name, ()
    )

    def of_integers(*bits: int) -> Bits:
        given = [b if i in as_it_is else read(kind, b) for i, b in enumerate(bits)]
        return general(*given) % 2 ** (width * 2 if name.endswith(".wide") else width)

    return of_integers
