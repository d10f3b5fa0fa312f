"""Every Triton kernel and configuration, compiled for architectures that are not here."""

import re

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.compiled import triton_kernels
from benchmarks.compiled.triton_kernels import ARCHS, MATRIX, Name, Row, Work
from benchmarks.harness import copy_kernel

from ..fake_gpu import SHARED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the interpreter compiles nothing"),
]


@pytest.fixture(scope="session")
def page(found) -> str:
    return (triton_kernels.DOCS.parent / found.page).read_text()


@pytest.fixture(scope="session")
def cells(found, page) -> dict[Name, str]:
    """What the page says of every kernel and configuration, and what is compiled here."""
    return triton_kernels.listed(page) | {row[:4]: triton_kernels.cell(row) for row in found.rows}


def none_of(wrong: dict[Name, str]) -> None:
    assert not wrong, "\n".join(
        f"sm_{arch} {kernel} [{p}] [{c}]: {wrong[arch, kernel, p, c]}" for arch, kernel, p, c in wrong
    )


def test_the_page_lists_all_there_is(found, page):
    """Written by ``python -m benchmarks.compiled.triton_kernels --write``, and anew after a change of a kernel."""
    assert set(triton_kernels.listed(page)) == set(found.names)


def test_the_page_is_what_is_compiled(found, page):
    """By the Triton and the ptxas that wrote it."""
    listed, compiled = triton_kernels.listed(page), {row[:4]: triton_kernels.cell(row) for row in found.rows}
    if f"{found.versions} " in page:
        none_of({name: cell for name, cell in compiled.items() if listed.get(name) != cell})


def test_a_page_is_that_of_its_cells(page):
    versions = re.search(r"Triton .* for sm_100\.", page)[0]
    assert triton_kernels.page(triton_kernels.listed(page), versions) == page


def test_each_problem_or_kernel_is_compiled(found):
    """Each kernel for each architecture, and by the Triton that is installed, each problem for one of them."""
    assert {(row.arch, row.kernel) for row in found.rows} == {name[:2] for name in found.names}
    problems = {name[1:3] for name in found.names}
    assert {row[1:3] for row in found.rows} == problems or found.page == "kernels_newest.md"


def test_every_kernel_is_there(found):
    from equifast.kernels import FILES, load

    for op in FILES:
        load(op)
    from equifast.kernels.host.launch import KERNELS

    for arch in ARCHS:
        assert {kernel for of, kernel, _, _ in found.names if of == arch} == set(KERNELS)
    assert set(KERNELS) >= MATRIX


def test_all_compile_and_none_spills(cells):
    none_of({name: cell for name, cell in cells.items() if triton_kernels.is_wrong(cell)})


def test_products_run_on_matrix_units(cells):
    on_matrix_units = {name: cell for name, cell in cells.items() if triton_kernels.instructions(cell)}
    wanted = {name: cell for name, cell in cells.items() if triton_kernels.wants_matrix(name)}
    none_of({name: cell for name, cell in wanted.items() if name not in on_matrix_units})
    none_of({name: cell for name, cell in on_matrix_units.items() if name[1] not in MATRIX})
    assert {name[:2] for name in on_matrix_units} == {(arch, kernel) for arch in ARCHS for kernel in MATRIX}


def test_shared_memory_suffices(cells):
    none_of({name: cell for name, cell in cells.items() if triton_kernels.shared(cell) > SHARED[name[0]] >> 10})


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
