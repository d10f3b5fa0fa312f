"""Groups, sizes, dtypes, tolerances and memory layouts that the op tests share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch._prims_common import suggest_memory_format

from equifast.groups import Group, as_group
from equifast.representations import SIZES as REPRESENTATIONS
from equifast.representations import channel_action
from equifast.transform_set import Transforms, TransformSet, as_transforms

from .backend import DEVICE, NAME, TRITON_COMPILES, by_backend

GROUPS = [as_group(f"C{n}") for n in range(1, 13)] + [as_group(f"D{n}") for n in range(1, 9)]

#: One of each kind: nothing to do, flips alone, exact, half turns exact, nothing exact, mixed, with and without flips.
KINDS = [as_group(name) for name in ("C1", "C4", "C5", "C6", "C8", "D1", "D3", "D4", "D8")]

#: Sets of maps that are no group: rotations, exact and not; maps that stretch; a shear; maps that shrink much.
SETS = [
    TransformSet(angles=(0, 20, 90, 110, 201.5), flips=True),
    TransformSet(scales=(1, 0.6, (1.5, 0.7)), angles=(0, 180)),
    TransformSet(matrices=[[[1, 0.4], [0.2, 0.9]]], angles=(0, 90)),
    TransformSet(scales=(3, (8, 0.125)), angles=(0, 33)),
]

#: Square and not, odd and even, around the vector widths, with more rows than a band or a part holds, unevenly.
SHAPES = [(1, 1), (1, 6), (5, 1), (2, 3), (7, 7), (16, 16), (17, 33), (32, 32), (20, 15), (47, 47), (131, 33)]

TOLERANCES = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1.6e-2},
}
DTYPES = list(TOLERANCES)

#: Groups with more elements than the arguments of a CUDA kernel hold.
LARGE = ["C36", "D20"]

#: Shapes on which a transposed resampling differs in kind: on narrow images, long rays end on the edges.
TRANSPOSES = [("D4", (4, 4)), ("C8", (5, 5)), ("C3", (4, 6)), ("C5", (1, 4)), ("C6", (7, 2))]
TRANSPOSES += [(SETS[1], (5, 5)), (SETS[2], (4, 7)), (SETS[3], (6, 6)), (SETS[3], (1, 5))]
TRANSPOSES += by_backend([("C8", (33, 20))], [], emulation=[("C8", (33, 20))])
EXACT = {"rtol": 0.0, "atol": 0.0}
PADDING_MODES = ["border", "zeros"]

#: Ways an image batch can lie in memory; some repeat what they are given.
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "batch_last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "transposed": lambda x: x.mT.contiguous().mT,
    "every_other_column": lambda x: torch.stack((x, -x), -1).flatten(-2)[..., ::2],
    "every_other_row": lambda x: torch.stack((x, -x), -2).flatten(-3, -2)[..., ::2, :],
    "cropped": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1, 1, 0), value=9.0)[:, 1:, 3:-1, 1:-2],
    "one_image": lambda x: x[:1].expand_as(x),
    "one_channel": lambda x: x[:, :1].expand_as(x),
    "one_row": lambda x: x[:, :, :1].expand_as(x),
    "one_column": lambda x: x[..., :1].expand_as(x),
    "one_pixel": lambda x: x[:, :, :1, :1].expand_as(x),
    "overlapping": lambda x: x.flatten().as_strided(x.shape, (x.shape[3], 1, 1, 1)),
}


def rand(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Uniform in [-1, 1), the same values (but for rounding) in every dtype and on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    values = torch.rand(shape, dtype=torch.float64, generator=generator, device="cpu")
    return (values * 2 - 1).to(DEVICE, dtype)


def ids(group: Transforms | str, batch: int, seed: int = 0) -> Tensor:
    """A random element for each of a batch."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randint(as_transforms(group).order, (batch,), generator=generator, device="cpu").to(DEVICE)


def every(group: Transforms | str) -> Tensor:
    """Each element once."""
    return torch.arange(as_transforms(group).order, device=DEVICE)


def action(
    group: Transforms | str, representation: str = "trivial", padding_mode: str = "border", adjoint=False, inverse=True
) -> tuple:
    """What the ops `orbit`, `act` and `orbit_average` take after their tensors."""
    group = as_transforms(group)
    channels = map(list, channel_action(group, representation, inverse=inverse))
    return list(group.action_table(inverse=inverse)), *channels, padding_mode, adjoint


def layout_of_resampled(x: Tensor) -> torch.memory_format:
    """The layout of images that are resampled from x."""
    return torch.contiguous_format if x.is_contiguous() else suggest_memory_format(x)


def assert_same_in_channels_last(run: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """Of images in channels_last, ``run`` makes the same images, bit for bit, in channels_last."""
    laid_out = images.movedim(-3, -1).contiguous().movedim(-1, -3)
    out = run(laid_out)
    assert_same(out, run(images))
    memory_format = torch.contiguous_format if laid_out.is_contiguous() else torch.channels_last
    assert out.stride() == torch.empty(out.shape, memory_format=memory_format).stride()


def of_many_channels(representation: str = "trivial") -> Iterator[tuple[Tensor, Group, str]]:
    """Batches of few to many channels, with a group and a padding mode, that kernels cut into vectors differently."""
    counts = by_backend([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 64], [2, 3, 8], interpreter=[3])
    shapes = by_backend([(9, 9), (1, 6), (5, 1), (20, 20), (7, 12)], [(5, 5), (3, 4)], interpreter=[(5, 5)])
    kinds = itertools.cycle(itertools.product(PADDING_MODES, KINDS))
    for count, shape, dtype in itertools.product(counts, shapes, by_backend(DTYPES, [torch.float32, torch.bfloat16])):
        padding_mode, group = next(kinds)
        size = REPRESENTATIONS[representation](group.order)
        yield rand(2, -(-count // size) * size, *shape, dtype=dtype), group, padding_mode


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Bit for bit, up to the sign of zero."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def assert_same_sum(actual: Tensor, expected: Tensor) -> None:
    """Bit for bit where kernels fix the order of a sum. In the fallbacks, torch sums as the layout suggests."""
    (assert_near if NAME == "reference" else assert_same)(actual, expected)


def assert_same_in_any_layout(actual: Tensor, expected: Tensor) -> None:
    """Bit for bit where the layout of vectors doesn't change the order of their sums."""
    (assert_near if TRITON_COMPILES else assert_same_sum)(actual, expected)


def assert_near(actual: Tensor, expected: Tensor, scale: float = 1.0, about: str = "") -> None:
    """Within the tolerance of the actual dtype, whatever the expected one; integers are equal."""
    tolerance = {name: scale * value for name, value in TOLERANCES.get(actual.dtype, EXACT).items()}
    torch.testing.assert_close(
        actual.double(), expected.double(), equal_nan=True, msg=lambda m: f"{about}: {m}" if about else m, **tolerance
    )


def assert_near_overall(actual: Tensor, expected: Tensor, scale: float = 1.0, about: str = "") -> None:
    """Relative to the largest finite entry, as befits sums over many pixels of which some cancel."""
    finite = expected[expected.isfinite()].abs()
    largest = max(finite.max().item(), 1.0) if finite.numel() else 1.0
    atol = scale * TOLERANCES.get(actual.dtype, EXACT)["rtol"] * largest
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=0, atol=atol, equal_nan=True, msg=lambda m: f"{about}: {m}"
    )


def is_exact(group: Transforms | str, element: int, shape: tuple[int, int]) -> bool:
    """Whether an element maps a pixel grid of that shape onto itself."""
    a, b, c, d = (abs(v) for v in as_transforms(group).matrix(element))
    return (a, b, c, d) == (1, 0, 0, 1) or (shape[0] == shape[1] and (a, b, c, d) == (0, 1, 1, 0))


def exact_elements(group: Transforms | str, shape: tuple[int, int]) -> list[int]:
    return [e for e in range(as_transforms(group).order) if is_exact(group, e, shape)]


class Problem(NamedTuple):
    """A group and an image batch for it, as few words in a report."""

    group: Group
    dtype: torch.dtype
    shape: tuple[int, int]
    batch: int
    copies: int
    layout: str
    padding_mode: str

    def images(self, representation: str = "trivial", *, members: bool = False, seed: int = 0) -> Tensor:
        """(B, C, H, W) or, with all members of its orbit, (E·B, C, H, W)."""
        batch = self.batch * (self.group.order if members else 1)
        channels = self.copies * REPRESENTATIONS[representation](self.group.order)
        return LAYOUTS[self.layout](rand(batch, channels, *self.shape, dtype=self.dtype, seed=seed))


def problems(*, min_batch: int = 0) -> st.SearchStrategy[Problem]:
    side = st.integers(1, 40)
    shapes = st.one_of(st.sampled_from(SHAPES), side.map(lambda n: (n, n)), st.tuples(side, side))
    return st.builds(
        Problem,
        group=st.sampled_from(GROUPS),
        dtype=st.sampled_from(DTYPES),
        shape=shapes,
        batch=st.integers(min_batch, 4),
        copies=st.sampled_from([1, 3, 5]),
        layout=st.sampled_from(list(LAYOUTS)),
        padding_mode=st.sampled_from(PADDING_MODES),
    )


def few_problems(count: int, min_batch: int = 0) -> list[Problem]:
    """Small problems with each kind of group, dtype, layout and padding mode by turns, for slow backends."""
    shapes = [(5, 5), (1, 4), (4, 6), (6, 6), (3, 1)]
    lists = KINDS[::-1], DTYPES, shapes, [2, 1, max(min_batch, 1) + 1], [1, 3], list(LAYOUTS), PADDING_MODES
    return [Problem(*(values[i % len(values)] for values in lists)) for i in range(count)]


def product_or_turns(*lists: list) -> Iterator[tuple]:
    """Every combination on the native library; on slow backends every value of each list, by turns."""
    longest = max(map(len, lists))
    turns = ((values[i % len(values)] for values in lists) for i in range(longest))
    return by_backend(itertools.product(*lists), map(tuple, turns))


CONVOLUTIONS = [{}, {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}, {"padding": "same"}]


def differentiable(
    group: Group, shape: tuple[int, int], dtype: torch.dtype, batch: int = 2
) -> Iterator[tuple[str, Callable, tuple[Tensor, ...]]]:
    """``(name, function of (library, *leaves), leaves)`` of every public op and each of its options."""
    e = group.order

    def warps(representation, inverse, padding_mode):
        c = REPRESENTATIONS[representation](e)
        options = {"group": group, "representation": representation, "padding_mode": padding_mode}
        element = ids(group, batch)
        yield (
            f"act {representation}",
            lambda library, x: library.act(x, element, inverse=inverse, **options),
            (rand(batch, c, *shape, dtype=dtype),),
        )
        yield (
            f"orbit_average {representation}",
            lambda library, y, weights: library.orbit_average(y, weights, **options),
            (rand(e * batch, c, *shape, dtype=dtype), rand(batch, e, dtype=dtype, seed=1)),
        )

    for padding_mode in ("border", "zeros"):
        yield (
            f"orbit {padding_mode}",
            lambda library, x, mode=padding_mode: library.orbit(x, group, padding_mode=mode),
            (rand(batch, 2, *shape, dtype=dtype),),
        )
    height, width = shape
    crop = (height // 4, width // 3, height - height // 2, width - width // 3 - width // 4)
    for size in ((4, 9), (height // 2 + 1, width // 2 + 1)):
        yield (
            f"crop_resize {size}",
            lambda library, x, size=size: library.crop_resize(x, size, crop=crop),
            (rand(batch, 3, *shape, dtype=dtype),),
        )
    yield from warps("trivial", True, "border")
    yield from warps("regular", False, "zeros")
    yield from warps("vector", False, "border")
    for options in CONVOLUTIONS:
        for bias in ((), (rand(4, dtype=dtype, seed=2),)):
            yield (
                f"orbit_conv2d {options}",
                lambda library, *leaves, options=options: library.orbit_conv2d(*leaves, group=group, **options),
                (rand(batch, 2, *shape, dtype=dtype), rand(4, 2, 3, 3, dtype=dtype, seed=1), *bias),
            )
    for activation, options in (("gelu", CONVOLUTIONS[1]), ("silu", CONVOLUTIONS[2]), ("none", CONVOLUTIONS[2])):
        yield (
            f"orbit_conv2d_pool {activation}",
            lambda library, *leaves, more={"activation": activation, **options}: library.orbit_conv2d_pool(
                *leaves, group=group, **more
            ),
            (*(rand(*s, dtype=dtype, seed=i) for i, s in enumerate(((batch, 2, *shape), (4, 2, 3, 3), (4,)))),),
        )
    for similarity in ("cosine", "dot"):
        for outputs in (slice(0, 1), slice(1, 2), slice(0, 2)):
            yield (
                f"orbit_scores {similarity} {outputs.start}:{outputs.stop}",
                lambda library, v, r, similarity=similarity, outputs=outputs: library.orbit_scores(
                    v, r, group=group, beta=1.7, similarity=similarity
                )[outputs],
                (rand(e * batch, 7, dtype=dtype), rand(7, dtype=dtype, seed=1)),
            )
        yield (
            f"orbit_linear_scores {similarity}",
            lambda library, *leaves, similarity=similarity: library.orbit_linear_scores(
                *leaves, group=group, beta=1.7, similarity=similarity
            )[:2],
            (
                rand(e * batch, 5, dtype=dtype),
                rand(7, 5, dtype=dtype, seed=1),
                rand(7, dtype=dtype, seed=2),
                rand(7, dtype=dtype, seed=3),
            ),
        )
        for normalize in (False, True):
            options = {"beta": 1.7, "similarity": similarity, "normalize": normalize}
            options |= {"prior_beta": 0.7} if normalize else {}
            for outputs in (slice(0, 2), slice(3, 4), slice(3, 5)):
                yield (
                    f"orbit_losses {similarity} {normalize} {outputs.start}:{outputs.stop}",
                    lambda library, v, r, options=options, outputs=outputs: library.orbit_losses(
                        v, r, group=group, **options
                    )[outputs],
                    (rand(e * batch, 7, dtype=dtype), rand(7, dtype=dtype, seed=1)),
                )
    for score in (("confidence", "negative_entropy"), ("margin", "energy", "class"))[e % 2]:
        index = ids("C7", batch) if score == "class" else None
        yield (
            f"orbit_logit_scores {score}",
            lambda library, logits, score=score, index=index: library.orbit_logit_scores(
                logits, group=group, score=score, index=index, beta=1.7
            )[:2],
            (rand(e * batch, 7, dtype=dtype),),
        )
    for normalize in (False, True):
        yield (
            f"contrastive_loss {normalize}",
            lambda library, v, normalize=normalize: library.contrastive_loss(v, group=group, normalize=normalize),
            (rand(e * batch, 7, dtype=dtype),),
        )


def amid_nan(t: Tensor, before: int = 64) -> Tensor:
    """The same numbers and strides within NaN; ``before`` of them decide whether it begins on 16 bytes."""
    if not t.is_floating_point():
        return t
    if any(size > 1 and stride == 0 for size, stride in zip(t.shape, t.stride(), strict=True)):
        base = tuple(slice(1) if stride == 0 else slice(None) for stride in t.stride())
        return amid_nan(t[base], before).expand(t.shape)
    span = 1 + sum(max(size - 1, 0) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    out = torch.full((before + span + 64,), torch.nan, dtype=t.dtype, device=t.device).as_strided(
        t.shape, t.stride(), before
    )
    return out.copy_(t)


#: Dtypes, batches and layouts that between them show what kernels on a device can get wrong.
DEVICE_KINDS = [
    (torch.float64, 2, "contiguous"),
    (torch.float32, 3, "contiguous"),
    (torch.float16, 2, "contiguous"),
    (torch.bfloat16, 2, "channels_last"),
    (torch.float32, 2, "channels_last"),
    (torch.float32, 2, "cropped"),
    (torch.float16, 2, "batch_last"),
    (torch.float64, 2, "every_other_column"),
    (torch.float32, 2, "one_channel"),
    (torch.float32, 2, "overlapping"),
    (torch.float32, 1, "transposed"),
    (torch.float32, 0, "contiguous"),
    (torch.bfloat16, 0, "channels_last"),
]


def on_rows(network):
    """The network as a function that reads the orbit itself, which a slice of it does, so that nothing is fused."""
    return lambda rows: network(rows[:])
