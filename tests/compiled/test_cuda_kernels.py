"""Every CUDA kernel, compiled for GPUs that are not here, and the page that lists what it compiles to."""

import os
from pathlib import Path

import pytest

from benchmarks.compiled import cuda_kernels, cuda_launches
from benchmarks.compiled.cuda_kernels import (
    INSTRUCTIONS,
    MATRIX,
    MATRIX_TYPES,
    Report,
    archs,
    nvcc,
    resident,
    sources,
    wants_matrix,
)

#: Where a build must have its native libraries, a compiler that is there must be found.
HIDDEN = os.environ.get("EQUIFAST_REQUIRE_NATIVE") == "1" and Path("/usr/local/cuda").exists()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(nvcc() is None and not HIDDEN, reason="no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda"),
]


@pytest.fixture(scope="session")
def report() -> Report:
    """Each file is compiled for one of the architectures, by turns. The page has a column for each of them, written by
    ``python -m benchmarks.compiled.cuda_kernels --write``, and the tests below hold it against what is compiled here.
    """
    return cuda_kernels.compiled(os.cpu_count() or 1, in_turn=True)


def lines(rows) -> str:
    return "\n".join(f"{row.source} {row.kernel}<{row.kind}> sm_{row.arch}: {cuda_kernels.cell(row)}" for row in rows)


@pytest.fixture(scope="session")
def page() -> dict[tuple[str, str, str, str], str]:
    """The cells of the page by (source, kernel, kind, architecture)."""
    cells, source, columns = {}, "", []
    for line in cuda_kernels.DOCS.read_text().splitlines():
        source = line[3:] if line.startswith("## ") else source
        words = line.removeprefix("| ").removesuffix(" |").split(" | ")
        if words[:2] == ["kernel", "of"]:
            columns = [word.removeprefix("sm_") for word in words[2:]]
        elif source.endswith(".cu") and len(words) == 2 + len(columns):
            cells |= {(source, *words[:2], arch): cell for arch, cell in zip(columns, words[2:], strict=True)}
    return cells


def test_all_compile_and_link(report):
    assert not report.errors, "\n".join(f"{name}: {error}" for name, error in report.errors.items())
    assert not report.missing
    assert {row.source for row in report.rows} == {source.name for source in sources()}
    assert {row.arch for row in report.rows} == set(archs())


def test_none_spills(report, page):
    wrong = [row for row in report.rows if row.spills]
    assert not wrong, lines(wrong)
    wrong = [key for key, cell in page.items() if "spilled" in cell]
    assert not wrong


def test_every_kernel_can_be_launched(report):
    wrong = [row for row in report.rows if not row.registers or not row.blocks]
    assert not wrong, lines(wrong)


def test_products_run_on_matrix_units(report, page):
    wrong = [row for row in report.rows if wants_matrix(row) != bool(row.instructions)]
    assert not wrong, lines(wrong)
    on_matrix_units = [key[1:] for key, cell in page.items() if any(name in cell for name in INSTRUCTIONS)]
    for kernel in MATRIX:
        for arch in {key[3] for key in page}:
            kinds = " ".join(kind for name, kind, of in on_matrix_units if (name, of) == (kernel, arch))
            assert all(name in kinds for name in MATRIX_TYPES), (kernel, arch, kinds)


def test_the_page_is_what_is_compiled(report, page):
    """Kernel by kernel, for all architectures. By the nvcc that wrote it, each cell of what is compiled here is equal,
    so after a change of a kernel, the page has to be written anew, for all architectures."""
    assert {key[:3] for key in page} == {row[:3] for row in report.rows} and "–" not in page.values()
    if f"nvcc {cuda_kernels.version()}," in cuda_kernels.DOCS.read_text():
        wrong = [row for row in report.rows if page[row[:4]] != cuda_kernels.cell(row)]
        assert not wrong, lines(wrong)


def test_the_page_lists_what_real_sizes_launch():
    text = cuda_kernels.DOCS.read_text()
    missing = [line for line in cuda_launches.lines() if line not in text]
    assert not missing, missing


def test_blocks_of_real_sizes_fit():
    """At least two at once on a multiprocessor, so that one computes while another reads."""
    found = cuda_launches.launches()
    wrong = [row for row in found if row.resident < 2]
    assert not wrong, wrong
    assert {row.kernel for row in found} >= {"orbit", "act", "orbit_average", "orbit_inner", "orbit_conv2d"}


PLANTED = """
__global__ void __launch_bounds__(1024) planted_kernel(float* out, const float* x) {
  float value[SIZE];
#pragma unroll
  for (int i = 0; i < SIZE; ++i) value[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int k = 0; k < SIZE; ++k) sum += value[k] * x[k + int(sum)];
#pragma unroll
  for (int k = 0; k < SIZE; ++k) out[k * 1024 + threadIdx.x] = value[k] + sum;
}
"""


@pytest.mark.parametrize(("size", "spills"), [(8, False), (128, True)])
def test_a_kernel_that_spills_is_seen(size, spills, tmp_path):
    source = tmp_path / "planted.cu"
    source.write_text(PLANTED.replace("SIZE", str(size)))
    found = cuda_kernels.compiled(1, [source])
    assert not found.errors and [row.arch for row in found.rows] == list(archs())
    for row in found.rows:
        assert (row.spills > 0) == spills and (row.kernel, row.kind, row.threads) == ("planted", "", 1024), row
        assert not row.instructions and 0 < row.registers <= 64


@pytest.mark.parametrize(
    ("arch", "registers", "threads", "blocks"),
    [("80", 32, 256, 8), ("80", 64, 256, 4), ("80", 128, 128, 4), ("90a", 255, 128, 2), ("80", 16, 32, 32)]
    + [("121", 32, 256, 6), ("121", 65, 1024, 0)],
)
def test_blocks_that_fit(arch, registers, threads, blocks):
    """As NVIDIA's occupancy calculator has it."""
    assert resident(arch, registers, threads) == blocks
