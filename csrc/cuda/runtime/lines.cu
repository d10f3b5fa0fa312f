#include "cuda/runtime/lines.h"

#include "cuda/device/members.cuh"
#include "cuda/runtime/arithmetic.h"

namespace equifast::cuda {
namespace {

constexpr int kThreads = 128;

// Every thread computes one row or column of one element.
__global__ void __launch_bounds__(kThreads) lines_kernel(const __grid_constant__ LinesArgs a) {
  const int64_t n = int64_t(blockIdx.x) * kThreads + threadIdx.x, e = n / (a.H + a.W);
  if (e >= a.table.order) return;
  const auto line = static_cast<int32_t>(n - e * (a.H + a.W));
  const Matrix m = a.table.action(e).matrix();
  const Grid grid = {a.H, a.W, a.table.border};
  a.out[n] = line < a.H ? row_offsets(m, grid, line) : column_offsets(m, grid, line - a.H);
}

}  // namespace

void list_lines(const LinesArgs& args, Stream stream) {
  const int64_t lines = args.table.order * (int64_t(args.H) + args.W);
  launch("lines", lines_kernel, ceil_div<int64_t>(lines, kThreads), kThreads, 0, stream, args);
}

}  // namespace equifast::cuda
