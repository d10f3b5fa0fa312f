// A kernel that reverses each block of numbers through shared memory, and mistakes planted in it for sanitizers to see.
// `planted NAME` runs it with the mistake of that name, or with `none`.
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/runtime/hardware.h"

namespace {

using namespace equifast::cuda;

enum Mistake {
  none,
  beyond_output,    // the last thread writes past the output
  beyond_shared,    // the last thread writes past shared memory
  overflow,         // a signed sum overflows
  misaligned,       // the input is read one byte off
  no_barrier,       // numbers are read before all threads of the block have written them
  no_warp_barrier,  // numbers are read before all threads of the warp have written them
  two_blocks,       // two blocks write the same output
  left_early        // a thread returns before the barrier
};
constexpr const char* kNames[] = {"none",       "beyond_output",   "beyond_shared", "overflow",  "misaligned",
                                  "no_barrier", "no_warp_barrier", "two_blocks",    "left_early"};

struct Args {
  Mistake mistake;
  const unsigned char* in;
  float* out;
  int huge;
};

__global__ void reverse(const __grid_constant__ Args a) {
  const int i = threadIdx.x, size = blockDim.x, first = blockIdx.x * size;
  if (a.mistake == left_early && i == 0) return;
  auto* numbers = shared_memory<float>();
  const auto* in = reinterpret_cast<const float*>(a.in + (a.mistake == misaligned));
  numbers[i + (a.mistake == beyond_shared)] = in[first + i];
  if (a.mistake == overflow) numbers[i] += static_cast<float>(a.huge + i);
  if (a.mistake != no_barrier) __syncthreads();
  float value = numbers[size - 1 - i];
  if (a.mistake == none || a.mistake == no_warp_barrier) {  // swaps the numbers of each pair, and swaps them back
    __syncthreads();
    numbers[i] = value;
    if (a.mistake != no_warp_barrier) __syncwarp();
    value = __shfl_xor_sync(~0u, numbers[i ^ 1], 1);
  }
  a.out[a.mistake == two_blocks ? i : first + i + (a.mistake == beyond_output)] = value;
}

}  // namespace

int main(int count, char** given) {
  constexpr int kThreads = 64, kBlocks = 3;
  for (int mistake = 0; mistake < 9; ++mistake) {
    if (count != 2 || std::strcmp(given[1], kNames[mistake]) != 0) continue;
    std::vector<float> in(kThreads * kBlocks + 1), out(kThreads * kBlocks);
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
    const Args args{static_cast<Mistake>(mistake), reinterpret_cast<unsigned char*>(in.data()), out.data(), INT32_MAX};
    launch("reverse", reverse, kBlocks, kThreads, kThreads * sizeof(float), {}, args);
    int wrong = 0;
    for (int i = 0; i < kThreads * kBlocks; ++i)
      wrong += out[i] != static_cast<float>(i / kThreads * kThreads + kThreads - 1 - i % kThreads);
    std::printf("%d wrong\n", wrong);
    return 0;
  }
  return 2;
}
