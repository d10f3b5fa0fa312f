"""The interpreter is patched (benchmarks/gpu/interpreted.py), and gives what it gives as it is.

Run as ``python -m tests.triton.test_interpreter FILE``, it saves there what the interpreter gives as it is.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from ..cases import assert_same, rand


@triton.jit
def doubled(x, y, IS_SUM: tl.constexpr):
    return (x + y if IS_SUM else x - y) * 2


@triton.jit
def statements(out, x, n, scale, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Operands of each kind and rank: numbers, blocks, pointers, masks, results of other functions."""
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    at = row[:, None] * COLUMNS + column[None, :]
    mask = (at < n) & (column != 3)[None, :]
    value = tl.load(x + at, mask=mask, other=-7)
    wide = value.to(tl.float64) * scale - row[:, None]
    steps = (wide * 1024).to(tl.int64)
    quotient = steps // 3 + (steps % 5) * (1 << 3) - (column >> 1)
    which = tl.where(mask & ((quotient & 1) == 0), quotient, -quotient)
    total = tl.sum(which.to(tl.float32), 0)  # [COLUMNS]
    for k in range(2):
        total += tl.maximum(total, k) / (tl.abs(total) + 1)
    turned = tl.trans(tl.reshape(value, [COLUMNS, ROWS]))
    result = doubled(total[None, :], turned.to(tl.float32), ROWS < COLUMNS) + doubled(value, 3, True) * 3
    if tl.program_id(0) == tl.cdiv(n, ROWS * COLUMNS):
        result = -result
    size = ROWS * COLUMNS
    tl.store(out + tl.program_id(0) * size + at, result)
    tl.store(out + 2 * size + tl.program_id(0), tl.max(tl.reshape(result, [ROWS * COLUMNS]), 0))


@triton.jit
def errors(out, x, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(out + i, tl.erf(tl.load(x + i)))


def answers() -> list[torch.Tensor]:
    found = []
    for dtype in (torch.float32, torch.float16, torch.float64, torch.int32):
        for rows, columns in ((4, 8), (1, 4), (8, 1)):
            size = rows * columns
            x = (rand(size, dtype=torch.float64) * 50).to(dtype)
            found.append(torch.zeros(2 * size + 2, dtype=torch.float64))
            statements[(2,)](found[-1], x, size - 1, 0.75, rows, columns)
    return found


def test_a_patched_interpreter_gives_the_same_bits(tmp_path):
    file = tmp_path / "answers.pt"
    command = [sys.executable, "-m", "tests.triton.test_interpreter", file]
    environment = os.environ | {"EQUIFAST_BACKEND": "reference"}  # whose tests patch nothing
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], env=environment)
    for ours, theirs in zip(answers(), torch.load(file), strict=True):
        assert theirs.isfinite().all() and theirs.unique().numel() > 3
        assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_error_function_is_torchs(dtype):
    x = torch.linspace(-5, 5, 64, dtype=dtype)
    out = torch.empty_like(x)
    errors[(1,)](out, x, 64)
    torch.testing.assert_close(out, x.erf(), rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0)


if __name__ == "__main__":
    torch.save(answers(), sys.argv[1])
