"""Bad input: each argument of each op perturbed in turn, and what is said about it."""

import inspect
import re

import pytest
import torch

import equifast
from equifast import ops
from equifast.backends import native
from equifast.groups import CyclicGroup

from ..cases import rand

META = torch.device("meta")
IMAGES = r"expected \(B, C, H, W\), got "
FLOATING = "expected float64, float32, float16 or bfloat16, got "
X, Y, VECTORS = rand(2, 8, 6, 5), rand(8, 8, 6, 5), rand(8, 5)
WEIGHT, WEIGHTS = rand(4, 8, 3, 3), rand(2, 4)

GOOD = {
    equifast.orbit: {"x": X, "group": "C4"},
    equifast.act: {"x": X, "element": torch.tensor([1, 3]), "group": "C4"},
    equifast.orbit_average: {"y": Y, "weights": WEIGHTS, "group": "C4"},
    equifast.orbit_conv2d: {"x": X, "weight": WEIGHT, "bias": rand(4), "group": "C4"},
    equifast.orbit_scores: {"vectors": VECTORS, "reference": rand(5), "group": "C4"},
    equifast.orbit_logit_scores: {"logits": VECTORS, "group": "C4", "score": "class", "index": torch.tensor([4, 0])},
    ops.contrastive_loss: {"vectors": VECTORS, "group": "C4"},
}

#: Truth values: everything has one.
UNCHECKED = {(equifast.act, "inverse"), (ops.contrastive_loss, "normalize")}


def not_floating(name, t):
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
        yield {name: t.to(dtype)}, TypeError, f"{name}: {FLOATING}{dtype}"


def not_images(name, t):
    for shape in ((8, 6, 5), (1, 2, 8, 6, 5), ()):
        yield {name: rand(*shape)}, ValueError, f"{name}: {IMAGES}{re.escape(str(shape))}"
    for axis in (1, 2, 3):
        yield {name: t.narrow(axis, 0, 0)}, ValueError, f"{name}: expected at least one channel, row and column, got"


def not_a_tensor(name):
    for value, kind in (([1.0], "list"), (3.0, "float")):
        yield {name: value}, TypeError, f"{name}: expected a Tensor, got {kind}"


def not_a_choice(name, choices):
    for value in ("Border", "", None, 3):
        yield {name: value}, ValueError, f"{name}: expected one of {choices}, got {value!r}"


def elsewhere(first, names, good):
    for name in names:
        other = good[name].to(META)
        yield {name: other}, ValueError, f"{name}: expected the device of {first}, cpu, got meta"
    yield {first: good[first].to(META)}, ValueError, f": expected the device of {first}, meta, got cpu"


def perturbations(op):
    good = GOOD[op]
    names = set(inspect.signature(op).parameters)
    first = next(iter(inspect.signature(op).parameters))
    yield from not_a_tensor(first)
    yield from not_floating(first, good[first])
    yield {"group": 4}, TypeError, "group: expected a Group or a name such as 'C4', got int"
    yield {"group": None}, TypeError, "group: expected a Group or a name such as 'C4', got NoneType"
    yield {"group": "E4"}, ValueError, "group: expected 'C<n>' or 'D<n>' with n ≥ 1, got 'E4'"
    if "padding_mode" in names:
        yield from not_a_choice("padding_mode", "border, zeros")
        yield from not_images(first, good[first])
    if "representation" in names:
        yield from not_a_choice("representation", "trivial, regular, vector")
        odd = good[first][:, :7]
        message = f"{first}: expected channels divisible by E = 4 for 'regular', got 7"
        yield {first: odd, "representation": "regular"}, ValueError, message
        message = f"{first}: expected an even number of channels for 'vector', got 7"
        yield {first: odd, "representation": "vector"}, ValueError, message

    if op is equifast.act:
        yield from not_a_tensor("element")
        yield from elsewhere("x", ["element"], good)
        for dtype in (torch.int32, torch.float32, torch.bool):
            yield {"element": good["element"].to(dtype)}, TypeError, f"element: expected int64 ids, got {dtype}"
        for ids, got in (([1], r"\(1,\)"), ([[1], [3]], r"\(2, 1\)"), ([1, 2, 3], r"\(3,\)")):
            yield {"element": torch.tensor(ids)}, ValueError, rf"element: expected \(2,\), got {got}"
        for ids, got in (([0, 4], 4), ([-1, 0], -1), ([2**40, 0], 2**40)):
            yield {"element": torch.tensor(ids)}, ValueError, rf"element: expected ids in \[0, 4\), got {got}"

    if op is equifast.orbit_average:
        yield {"y": Y[:7]}, ValueError, r"y: expected E·B rows with E = 4, got \(7, 8, 6, 5\)"
        yield from not_a_tensor("weights")
        yield from elsewhere("y", ["weights"], good)
        for weights in (WEIGHTS.t(), WEIGHTS[:1], WEIGHTS[0], rand(2, 5)):
            got = re.escape(str(tuple(weights.shape)))
            yield {"weights": weights}, ValueError, rf"weights: expected \(2, 4\), got {got}"
        for dtype in (torch.float64, torch.float16, torch.int64):
            yield {"weights": WEIGHTS.to(dtype)}, TypeError, f"weights: expected torch.float32 .*got {dtype}"

    if op is equifast.orbit_conv2d:
        yield from not_a_tensor("weight")
        yield from not_a_tensor("bias")
        yield from elsewhere("x", ["weight", "bias"], good)
        for weight in (WEIGHT[0], WEIGHT[:, :7], rand(4, 8, 3), rand(4, 8, 0, 3)):
            yield (
                {"weight": weight},
                ValueError,
                r"weight: expected \(C_out, 8, kH, kW\), got \(" + str(weight.shape[0]),
            )
        for bias in (rand(3), rand(4, 1), rand()):
            yield {"bias": bias}, ValueError, r"bias: expected \(4,\), got "
        for dtype in (torch.float64, torch.bfloat16):
            for name in ("weight", "bias"):
                message = f"{name}: expected the dtype of x, torch.float32, got {dtype}"
                yield {name: good[name].to(dtype)}, TypeError, message
        yield from not_floating("weight", WEIGHT)
        yield from not_floating("bias", good["bias"])
        for name in ("stride", "dilation"):
            for value in (0, -1, (1, 0), (1, 1, 1), 1.5, None, "same"):
                yield {name: value}, ValueError, f"{name}: expected a positive int or a pair of them, got "
        for value in (-1, (0, -1), (1, 1, 1), 0.5, None, "full", "ab"):
            yield {"padding": value}, ValueError, "padding: expected 'same', 'valid', an int or a pair of them, got "
        for options in ({"stride": 2}, {"weight": rand(4, 8, 2, 3)}):
            yield {"padding": "same", **options}, ValueError, "padding: 'same' needs stride 1 and an odd dilated kernel"
        yield {"weight": rand(4, 8, 7, 3)}, ValueError, "x: expected H of at least 7 for this kernel, got 6"
        yield {"dilation": (1, 4), "padding": 1}, ValueError, "x: expected W of at least 7 for this kernel, got 5"
        yield from not_a_choice("activation", "none, relu, gelu, silu")

    if first == "vectors":
        for shape in ((8,), (4, 2, 5), ()):
            message = rf"vectors: expected \(E·B, d\), got {re.escape(str(shape))}"
            yield {"vectors": rand(*shape)}, ValueError, message
        yield {"vectors": rand(7, 5)}, ValueError, r"vectors: expected E·B rows with E = 4, got \(7, 5\)"

    if op is equifast.orbit_logit_scores:
        for shape in ((8,), (4, 2, 5), ()):
            yield {"logits": rand(*shape)}, ValueError, rf"logits: expected \(E·B, K\), got {re.escape(str(shape))}"
        yield {"logits": rand(7, 5)}, ValueError, r"logits: expected E·B rows with E = 4, got \(7, 5\)"
        yield {"logits": rand(8, 1)}, ValueError, r"logits: expected \(E·B, K\) with K ≥ 2 classes, got \(8, 1\)"
        yield from elsewhere("logits", ["index"], good)
        yield {"index": good["index"].int()}, TypeError, "index: expected int64 ids, got torch.int32"
        yield {"index": good["index"][:1]}, ValueError, r"index: expected \(2,\), got \(1,\)"
        yield {"index": good["index"] + 1}, ValueError, r"index: expected ids in \[0, 5\), got 5"
        yield {"index": 5}, ValueError, "index: expected a class from 0 to 4, got 5"
        yield {"index": None}, ValueError, "index: expected a class with score 'class'"
        yield {"score": "energy"}, ValueError, "index: expected None with score 'energy'"
        yield from not_a_choice("score", "confidence, margin, negative_entropy, energy, class")
        yield {"beta": torch.tensor(2.0)}, TypeError, "beta: expected a number, got a Tensor"

    if op is equifast.orbit_scores:
        yield from not_a_tensor("reference")
        yield from elsewhere("vectors", ["reference"], good)
        for shape in ((4,), (1, 5), ()):
            message = rf"reference: expected \(5,\), got {re.escape(str(shape))}"
            yield {"reference": rand(*shape)}, ValueError, message
        message = "reference: expected the dtype of vectors, torch.float32, got torch.float64"
        yield {"reference": rand(5, dtype=torch.float64)}, TypeError, message
        yield from not_floating("reference", good["reference"])
        yield from not_a_choice("similarity", "cosine, dot")
        yield {"beta": torch.tensor(2.0)}, TypeError, "beta: expected a number, got a Tensor"


@pytest.mark.parametrize("op", GOOD, ids=lambda op: op.__name__)
def test_each_argument_is_checked_and_named(op):
    op(**GOOD[op])
    perturbed = set()
    for changes, error, message in perturbations(op):
        perturbed |= set(changes)
        with pytest.raises(error, match=message):
            op(**GOOD[op] | changes)
    assert perturbed == {name for name in inspect.signature(op).parameters if (op, name) not in UNCHECKED}


@pytest.mark.parametrize("op", GOOD, ids=lambda op: op.__name__)
def test_meta_tensors_give_shapes(op):
    out = op(**GOOD[op])
    meta = {name: v.to(META) if isinstance(v, torch.Tensor) else v for name, v in GOOD[op].items()}
    like = op(**meta)
    for real, fake in zip(
        out if isinstance(out, tuple) else (out,), like if isinstance(like, tuple) else (like,), strict=True
    ):
        assert fake.is_meta
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_autocast_does_not_accept_integers(name):
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match=f"{name}: {FLOATING}torch.int32"):
        equifast.orbit_conv2d(**GOOD[equifast.orbit_conv2d] | {name: GOOD[equifast.orbit_conv2d][name].int()})


TABLE = list(CyclicGroup(4).action_table(inverse=True))
ELEMENT = torch.tensor([0, 3])


@pytest.mark.skipif(native.cpu_error() is not None, reason="these are checks of the native library")
@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        ("orbit", (X[0], None, TABLE, [], [], "border", False), r"x: expected \(B, C, H, W\), got 3 dimensions"),
        ("orbit", (X, None, TABLE[:-1], [], [], "border", False), "table: expected rows of 5 numbers, got 19"),
        ("orbit", (X, None, [], [], [], "border", False), "table: expected rows of 5 numbers, got 0"),
        ("orbit", (X, None, TABLE, [], [], "wrap", False), "padding_mode: expected 'border' or 'zeros', got 'wrap'"),
        (
            "orbit",
            (X, None, TABLE, [0, 1, 2] * 4, [], "border", False),
            "permutation: 12 entries do not fit 4 elements",
        ),
        ("orbit", (X, None, TABLE, [0, 2] * 4, [], "border", False), "permutation: entry 2 outside its block"),
        ("orbit", (X, None, TABLE, [0, -1] * 4, [], "border", False), "permutation: entry -1 outside its block"),
        ("orbit", (X, None, TABLE, [], [1.0] * 12, "border", False), "mixing: expected 4 numbers an element"),
        ("orbit", (X[:, :7], None, TABLE, [], [1.0] * 16, "border", False), "mixing: .* an even number of channels"),
        ("orbit", (X, WEIGHTS.t(), TABLE, [], [], "border", False), r"weights: expected \(2, 4\)"),
        ("orbit", (X, WEIGHTS.double(), TABLE, [], [], "border", False), "weights: expected the accumulate type"),
        ("orbit", (X.int(), None, TABLE, [], [], "border", False), "x: expected float64, float32, float16 or bfloat16"),
        ("act", (X, ELEMENT + 1, TABLE, [], [], "border", False), r"element: expected ids in \[0, 4\), got 4 at 1"),
        ("act", (X, -ELEMENT, TABLE, [], [], "border", True), r"element: expected ids in \[0, 4\), got -3 at 1"),
        ("act", (X, ELEMENT[:1], TABLE, [], [], "border", False), "element: expected a multiple of 2 ids"),
        ("act", (X, ELEMENT.int(), TABLE, [], [], "border", False), "element: expected a multiple of 2 ids"),
        (
            "orbit_average",
            (Y.view(2, 4, 8, 6, 5), None, TABLE, [], [], "border", False),
            "y: expected 4 elements, got 2",
        ),
        (
            "orbit_average",
            (X[0], None, TABLE, [], [], "border", False),
            r"y: expected \(B, C, H, W\) or \(E, B, C, H, W\)",
        ),
        ("orbit_inner", (X, X[:1], TABLE, [], [], "border"), "v: expected the batch, channels, height and width of u"),
        ("orbit_inner", (X, X.double(), TABLE, [], [], "border"), "v: expected the dtype of u"),
        ("orbit_inner", (X, Y.view(4, 2, 8, 6, 5)[:3], TABLE, [], [], "border"), "expected 4 elements, got 3"),
        ("orbit_scores", (VECTORS, rand(4), 4, 1.0, True), r"reference: expected \(5,\)"),
        ("orbit_scores", (VECTORS, rand(5).double(), 4, 1.0, True), "reference: expected the dtype of vectors"),
        ("orbit_scores", (VECTORS, rand(5), 3, 1.0, True), r"vectors: expected \(E·B, d\) with E = 3"),
        ("orbit_scores", (VECTORS, rand(5), 0, 1.0, True), r"vectors: expected \(E·B, d\) with E = 0"),
        ("orbit_logit_scores", (VECTORS, None, 3, "energy", 1.0), r"logits: expected \(E·B, K\) with K ≥ 2 and E = 3"),
        ("orbit_logit_scores", (VECTORS[:, :1], None, 4, "energy", 1.0), r"logits: expected \(E·B, K\) with K ≥ 2"),
        ("orbit_logit_scores", (VECTORS, None, 4, "entropy", 1.0), "score: expected 'confidence', .* got 'entropy'"),
        ("orbit_logit_scores", (VECTORS, None, 4, "class", 1.0), "index: expected ids with the score 'class'"),
        ("orbit_logit_scores", (VECTORS, ELEMENT[:1], 4, "class", 1.0), r"index: expected \(2,\)"),
        ("contrastive_loss", (VECTORS, 3, True), r"vectors: expected \(E·B, d\) with E = 3"),
    ],
    ids=str,
)
def test_the_native_ops_check_what_could_read_out_of_bounds(op, args, message):
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.equifast, op)(*args)
