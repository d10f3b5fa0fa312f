// Sums of parts, always in the same order. A few threads alone would wait long for memory, so several threads take the
// parts of one number in turn, and their sums are added up.
#include "cuda/runtime/sum_parts.h"

#include "cuda/device/pixels.cuh"
#include "cuda/runtime/arithmetic.h"

namespace equifast::cuda {
namespace {

constexpr int kThreads = 256;

struct Args : SumPartsArgs {
  int columns;  // how many numbers a block sums; a power of two
};

template <class T>
__global__ void __launch_bounds__(kThreads) sum_parts_kernel(const __grid_constant__ Args a) {
  using A = Acc<T>;
  A* shared = shared_memory<A>();
  const int column = threadIdx.x % a.columns, row = threadIdx.x / a.columns, rows = kThreads / a.columns;
  const int64_t i = int64_t(blockIdx.x) * a.columns + column;
  const auto* partial = static_cast<const A*>(a.partial) + i;
  A sum = 0;
  if (i < a.n)
    for (int64_t part = row; part < a.parts; part += rows) sum += partial[part * a.n];
  shared[threadIdx.x] = sum;
  for (int step = rows / 2; step > 0; step /= 2) {
    __syncthreads();
    if (row < step) shared[threadIdx.x] += shared[threadIdx.x + step * a.columns];
  }
  if (row == 0 && i < a.n) static_cast<T*>(a.out)[i] = narrow<T>(shared[threadIdx.x] * A(a.scale));
}

}  // namespace

void sum_parts(const SumPartsArgs& args, Stream stream) {
  Args a = {args, kThreads};
  // Where numbers are few or parts are many, more threads share the parts of a number. Fewer than 32 numbers would not
  // fill a transaction.
  constexpr int kTransaction = 32;
  while (a.columns > 1 && (a.columns / 2 >= a.n || (a.columns > kTransaction && a.parts > kThreads / a.columns)))
    a.columns /= 2;
  visit(a.dtype, [&]<class T>(T) {
    launch("sum_parts", sum_parts_kernel<T>, ceil_div<int64_t>(a.n, a.columns), kThreads, kThreads * sizeof(Acc<T>),
           stream, a);
  });
}

}  // namespace equifast::cuda
