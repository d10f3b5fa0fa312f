"""Every CUDA kernel, compiled for GPUs that are not here."""

import os
from pathlib import Path

import pytest

from benchmarks.compiled import cuda_kernels, cuda_launches
from benchmarks.compiled.cuda_kernels import MATRIX, MATRIX_TYPES, Report, archs, nvcc, resident, sources, wants_matrix

#: Where a build must have its native libraries, a compiler that is there must be found.
HIDDEN = os.environ.get("EQUIFAST_REQUIRE_NATIVE") == "1" and Path("/usr/local/cuda").exists()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(nvcc() is None and not HIDDEN, reason="no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda"),
]


@pytest.fixture(scope="session")
def report() -> Report:
    return cuda_kernels.compiled(os.cpu_count() or 1)


def lines(rows) -> str:
    return "\n".join(f"{row.source} {row.kernel}<{row.kind}> sm_{row.arch}: {cuda_kernels.cell(row)}" for row in rows)


def test_all_compile_and_link(report):
    assert not report.errors, "\n".join(f"{name}: {error}" for name, error in report.errors.items())
    assert not report.missing
    assert {row.source for row in report.rows} == {source.name for source in sources()}
    for source in {row.source for row in report.rows}:
        of_arch = [{row[:3] for row in report.rows if (row.source, row.arch) == (source, arch)} for arch in archs()]
        assert all(kernels == of_arch[0] for kernels in of_arch)


def test_none_spills(report):
    wrong = [row for row in report.rows if row.spills]
    assert not wrong, lines(wrong)


def test_every_kernel_can_be_launched(report):
    wrong = [row for row in report.rows if not row.registers or not row.blocks]
    assert not wrong, lines(wrong)


def test_products_run_on_matrix_units(report):
    wrong = [row for row in report.rows if wants_matrix(row) != bool(row.instructions)]
    assert not wrong, lines(wrong)
    for kernel in MATRIX:
        for arch in archs():
            kinds = " ".join(
                row.kind for row in report.rows if (row.kernel, row.arch) == (kernel, arch) and row.instructions
            )
            assert all(name in kinds for name in MATRIX_TYPES), (kernel, arch, kinds)


def test_the_page_lists_what_is_compiled(report):
    """Written by ``python -m benchmarks.compiled.cuda_kernels --write``."""
    text = cuda_kernels.DOCS.read_text()
    titles = {line[3:] for line in text.splitlines() if line.startswith("## ")}
    assert {title for title in titles if title.endswith(".cu")} == {row.source for row in report.rows}
    missing = [row for row in report.rows if f"| {row.kernel} | {row.kind} |" not in text]
    assert not missing, lines(missing)


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
