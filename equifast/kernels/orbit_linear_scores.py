"""`orbit_linear_scores`: the last linear layer on tensor cores, its vectors measured as they come and never written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .device.products import dot, sum_of_products
from .device.scores import store_choice
from .device.vectors import orbit_rows, similarity
from .host.launch import Config, Kernel, Problem
from .host.sizes import accumulator, ceil_div, power_of_two


@triton.jit
def _orbit_linear_scores_kernel(
    features, weight, bias, reference, activations, probabilities, element,
    B, E, d, f, x_row, x_col, w_row, w_col, b_col, r_col, beta: tl.float64,
    COSINE: tl.constexpr, PRECISION: tl.constexpr, PLACES: tl.constexpr, TYPE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Store the scores of ``v = weight · features + bias`` for the samples of this block, and the choice.

    n: values of a vector, k: features.
    """
    sample, e, mask = orbit_rows(B, E, PLACES, ROWS)
    rows = features + (e.to(tl.int64) * B + sample)[:, None] * x_row
    products = tl.zeros((ROWS,), TYPE)
    squares = tl.zeros((ROWS,), TYPE)
    square = tl.zeros((1,), TYPE)
    for first in tl.range(0, d, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        weights = weight + n[None, :].to(tl.int64) * w_row
        v = tl.zeros((ROWS, BLOCK_N), TYPE)
        for start in tl.range(0, f, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K).to(tl.int64)
            x = tl.load(rows + k[None, :] * x_col, mask=mask[:, None] & (k < f)[None, :], other=0)
            w = tl.load(weights + k[:, None] * w_col, mask=(k < f)[:, None] & (n < d)[None, :], other=0)
            v = dot(x, w, v, TYPE, PRECISION)
        if bias is not None:
            v += tl.load(bias + n * b_col, mask=n < d, other=0).to(TYPE)[None, :]
        r = tl.load(reference + n * r_col, mask=n < d, other=0).to(TYPE)
        products += sum_of_products(v, r[None, :], 1)
        squares += sum_of_products(v, v, 1)
        square += sum_of_products(r, r, 0)
    scores = tl.reshape(similarity(products, squares, square, COSINE), (ROWS // PLACES, PLACES))
    store_choice(scores, tl.full((), beta, TYPE), activations, probabilities, element, B, E, PLACES, ROWS)


KERNEL = Kernel(_orbit_linear_scores_kernel, fuse_multiply_add=True)

#: (ROWS, BLOCK_N, BLOCK_K, warps, stages), where there are rows for many blocks. 16 bits and TF32 use tensor cores.
SIXTEEN_BITS = (
    (64, 128, 64, 4, 3),
    (32, 128, 64, 4, 4),
    (128, 128, 64, 8, 3),
    (64, 64, 64, 4, 4),
    (16, 128, 128, 4, 3),
)
TF32 = ((64, 64, 32, 4, 3), (32, 128, 32, 4, 3), (16, 128, 32, 4, 4))
FLOAT32 = ((32, 64, 16, 4, 2), (64, 64, 16, 8, 2), (16, 64, 16, 4, 2))
FLOAT64 = ((32, 32, 16, 4, 2), (16, 32, 16, 4, 2))


#: Fewer rows than this are few: they make fewer than 128 blocks of 64 rows. Smaller tiles are then tried first.
FEW_ROWS = 128 * 64


@lru_cache(maxsize=1024)
def configs(places: int, d: int, f: int, few: bool, dtype: torch.dtype, precision: str) -> list[Config]:
    """Configurations for so many places a sample. ``few``: whether there are rows for few blocks."""
    listed: Sequence[tuple[int, int, int, int, int]]
    if dtype == torch.float64:
        listed = FLOAT64
    elif dtype == torch.float32:
        listed = TF32 if precision == "tf32" else FLOAT32
    else:
        listed = SIXTEEN_BITS
    if few:
        listed = sorted(listed)
    found = []
    for rows, n, k, warps, stages in listed:
        if places > rows:  # an orbit lies in one block, however large
            n, k, warps = max(16, rows * n // places), 16, 8
            rows, stages = places, 2
        n, k = min(n, max(16, power_of_two(d))), min(k, max(16, power_of_two(f)))
        config = Config({"ROWS": rows, "BLOCK_N": n, "BLOCK_K": k}, warps, stages, registers=255)
        if config not in found:
            found.append(config)
    return found


def orbit_linear_scores(
    features: Tensor, weight: Tensor, bias: Tensor | None, reference: Tensor, order: int, beta: float, cosine: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch = features.shape[0] // order
    activations, probabilities = reference.new_empty((batch, order)), reference.new_empty((batch, order))
    element = reference.new_empty((batch,), dtype=torch.int64)
    if not batch:
        return activations, probabilities, element
    tf32 = features.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    strides = *features.stride(), *weight.stride(), 0 if bias is None else bias.stride(0), *reference.stride()
    dtypes = features.dtype, reference.dtype
    KERNEL.launch(
        (features.shape, weight.shape, strides, dtypes, order, cosine, tf32, bias is None),
        (features, weight, bias, reference, activations, probabilities, element),
        lambda: _problem(features, weight, strides, order, cosine, "tf32" if tf32 else "ieee"),
        (float(beta),),
    )
    return activations, probabilities, element


def _problem(features, weight, strides, order, cosine, precision) -> Problem:
    batch, (d, f), places = features.shape[0] // order, weight.shape, power_of_two(order)
    few = batch * places < FEW_ROWS
    return Problem(
        grid=lambda c: ceil_div(batch, c["ROWS"] // places),
        scalars=(batch, order, d, f, *strides),
        constants={"COSINE": cosine, "PRECISION": precision, "PLACES": places, "TYPE": accumulator(features.dtype)},
        configs=configs(places, d, f, few, features.dtype, precision),
        tuning_key=(places, power_of_two(d), power_of_two(f), power_of_two(batch), features.dtype, precision),
    )
