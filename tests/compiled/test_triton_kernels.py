"""Every Triton kernel and configuration, compiled for architectures that are not here."""

import re

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.compiled import triton_kernels
from benchmarks.compiled.triton_kernels import ARCHS, MATRIX, Row, Work
from benchmarks.harness import copy_kernel

from ..fake_gpu import SHARED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the interpreter compiles nothing"),
]


def lines(rows: list[Row]) -> str:
    return "\n".join(map(triton_kernels.line, rows))


def test_all_compile(rows):
    wrong = [row for row in rows if row.error]
    assert not wrong, lines(wrong)


def test_none_spills(rows):
    wrong = [row for row in rows if row.spills]
    assert not wrong, lines(wrong)


def test_every_kernel_is_there(rows):
    from equifast.kernels import FILES, load

    for op in FILES:
        load(op)
    from equifast.kernels.host.launch import KERNELS

    for arch in ARCHS:
        assert {row.kernel for row in rows if row.arch == arch} == set(KERNELS)
    assert set(KERNELS) >= MATRIX


def test_products_run_on_matrix_units(rows):
    wrong = [row for row in rows if triton_kernels.wants_matrix(row) and not row.instructions]
    assert not wrong, lines(wrong)
    for kernel in MATRIX:
        for arch in ARCHS:
            assert any(row.instructions for row in rows if (row.kernel, row.arch) == (kernel, arch)), (kernel, arch)


def test_nothing_else_does(rows):
    wrong = [row for row in rows if row.kernel not in MATRIX and row.instructions]
    assert not wrong, lines(wrong)


def test_shared_memory_suffices(rows):
    wrong = [row for row in rows if row.shared > SHARED[row.arch]]
    assert not wrong, lines(wrong)


def test_the_page_lists_what_is_compiled(rows):
    """Written by ``python -m benchmarks.compiled.triton_kernels --write``."""
    text = triton_kernels.DOCS.read_text()
    titles = {line[3:] for line in text.splitlines() if line.startswith("## ")}
    assert titles == {row.kernel for row in rows}
    missing = [row for row in rows if f"| {row.problem} | {row.config} |" not in text]
    assert not missing, lines(missing)


@triton.jit
def many_at_once(out, x, SIZE: tl.constexpr):
    """Each of 4 × 128 numbers a thread is used after a barrier."""
    i = tl.arange(0, SIZE)
    value = tl.load(x + i)
    tl.debug_barrier()
    other = tl.load(x + i + tl.sum(value, 0).to(tl.int32))
    tl.store(out + i, value * tl.sum(other, 0) + other)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_copy_of_the_limit_moves_16_bytes_at_once(arch):
    signature = {"out": "*fp32", "source": "*fp32", "count": "i32", "BLOCK": "constexpr"}
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(3)}
    source = ASTSource(copy_kernel.copy_block, signature, {(3,): copy_kernel.BLOCK}, aligned)
    ptx = triton.compile(source, GPUTarget("cuda", arch, 32), {"num_warps": copy_kernel.WARPS}).asm["ptx"]
    moves = re.findall(r"\b((?:ld|st)\.global\S*)", ptx)
    assert len(moves) == 8 and all(move.endswith(".v4.b32") for move in moves)


def compile_here(size: int, arch: int) -> Row:
    source = ASTSource(many_at_once, {"out": "*fp32", "x": "*fp32", "SIZE": "constexpr"}, {(2,): size})
    return triton_kernels.compiled(Work(arch, "many_at_once", "planted", str(size), source, {"num_warps": 1}))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_kernel_that_spills_is_seen(arch):
    assert compile_here(16384, arch).spills > 0


@pytest.mark.parametrize("arch", ARCHS)
def test_a_kernel_that_does_not_is_seen(arch):
    row = compile_here(128, arch)
    assert (row.spills, row.error, row.instructions) == (0, "", [])
    assert 0 < row.registers < 64
