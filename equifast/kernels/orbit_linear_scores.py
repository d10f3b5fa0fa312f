"""`orbit_linear_scores`: the last linear layer on tensor cores, its vectors measured as they come and never written."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Config, Kernel, Problem, accumulator, ceil_div, power_of_two
from .orbit_scores import orbit_rows, similarity, store_choice

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _orbit_linear_scores_kernel(
    features,
    weight,
    bias,
    reference,
    activations,
    probabilities,
    element,
    B,
    E,
    d,
    f,
    x0,
    x1,
    w0,
    w1,
    b0,
    r0,
    beta: tl.float64,
    COSINE: tl.constexpr,
    PRECISION: tl.constexpr,
    P: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    sample, e, mask = orbit_rows(B, E, P, ROWS)
    rows = features + (e.to(tl.int64) * B + sample)[:, None] * x0
    products = tl.zeros((ROWS,), ACC)
    squares = tl.zeros((ROWS,), ACC)
    square = tl.zeros((1,), ACC)
    for first in tl.range(0, d, N):
        n = first + tl.arange(0, N)
        columns = weight + n[None, :].to(tl.int64) * w0
        v = tl.zeros((ROWS, N), ACC)
        for start in tl.range(0, f, K):
            k = start + tl.arange(0, K).to(tl.int64)
            x = tl.load(rows + k[None, :] * x1, mask=mask[:, None] & (k < f)[None, :], other=0)
            w = tl.load(columns + k[:, None] * w1, mask=(k < f)[:, None] & (n < d)[None, :], other=0)
            if INTERPRETED:  # it multiplies the bits of bfloat16
                x, w = x.to(ACC), w.to(ACC)
            v = tl.dot(x, w, v, input_precision=PRECISION, out_dtype=ACC)
        if bias is not None:
            v += tl.load(bias + n * b0, mask=n < d, other=0).to(ACC)[None, :]
        r = tl.load(reference + n * r0, mask=n < d, other=0).to(ACC)
        products += tl.sum(v * r[None, :], 1)
        squares += tl.sum(v * v, 1)
        square += tl.sum(r * r, 0)
    scores = tl.reshape(similarity(products, squares, square, COSINE), (ROWS // P, P))
    store_choice(scores, tl.full((), beta, ACC), activations, probabilities, element, B, E, P, ROWS)


KERNEL = Kernel(_orbit_linear_scores_kernel, fuse_multiply_add=True)

#: (ROWS, N, K, warps, stages), where there are rows for many blocks; narrow types and TF32 run on tensor cores.
NARROW = ((64, 128, 64, 4, 3), (32, 128, 64, 4, 4), (128, 128, 64, 8, 3), (64, 64, 64, 4, 4), (16, 128, 128, 4, 3))
TF32 = ((64, 64, 32, 4, 3), (32, 128, 32, 4, 3), (16, 128, 32, 4, 4))
FULL = ((32, 64, 16, 4, 2), (64, 64, 16, 8, 2), (16, 64, 16, 4, 2))
DOUBLE = ((32, 32, 16, 4, 2), (16, 32, 16, 4, 2))


@lru_cache(maxsize=1024)
def configurations(places: int, d: int, f: int, few: bool, dtype: torch.dtype, precision: str) -> list[Config]:
    if dtype == torch.float64:
        options = DOUBLE
    elif dtype == torch.float32:
        options = TF32 if precision == "tf32" else FULL
    else:
        options = NARROW
    if few:
        options = sorted(options)
    configs = []
    for rows, n, k, warps, stages in options:
        if places > rows:  # an orbit lies in one block, however large
            n, k, warps = max(16, rows * n // places), 16, 8
            rows, stages = places, 2
        n, k = min(n, max(16, power_of_two(d))), min(k, max(16, power_of_two(f)))
        config = Config({"ROWS": rows, "N": n, "K": k}, warps, stages)
        if config not in configs:
            configs.append(config)
    return configs


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


def _problem(features, weight, strides, order, cosine, precision):
    batch, (d, f), places = features.shape[0] // order, weight.shape, power_of_two(order)
    few = batch * places < 128 * 64
    return Problem(
        grid=lambda c: ceil_div(batch, c["ROWS"] // places),
        scalars=(batch, order, d, f, *strides),
        constants={"COSINE": cosine, "PRECISION": precision, "P": places, "ACC": accumulator(features.dtype)},
        configs=configurations(places, d, f, few, features.dtype, precision),
        similar=(places, power_of_two(d), power_of_two(f), power_of_two(batch), features.dtype, precision),
    )
