// A kernel that turns blocks of numbers around through shared memory, and planted mistakes in it: `planted NAME`.
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/runtime/hardware.h"

namespace {

using namespace equifast::cuda;

enum Mistake {
  none,
  beyond_output,
  beyond_shared,
  overflow,
  misaligned,
  no_barrier,
  no_warp_barrier,
  two_blocks,
  left_early
};
constexpr const char* kNames[] = {"none",       "beyond_output",   "beyond_shared", "overflow",  "misaligned",
                                  "no_barrier", "no_warp_barrier", "two_blocks",    "left_early"};

struct Args {
  Mistake mistake;
  const unsigned char* in;
  float* out;
  int huge;
};

__global__ void turn_around(const __grid_constant__ Args a) {
  const int i = threadIdx.x, size = blockDim.x, place = blockIdx.x * size;
  if (a.mistake == left_early && i == 0) return;
  auto* numbers = shared_memory<float>();
  const auto* in = reinterpret_cast<const float*>(a.in + (a.mistake == misaligned));
  numbers[i + (a.mistake == beyond_shared)] = in[place + i];
  if (a.mistake == overflow) numbers[i] += static_cast<float>(a.huge + i);
  if (a.mistake != no_barrier) __syncthreads();
  float value = numbers[size - 1 - i];
  if (a.mistake == none || a.mistake == no_warp_barrier) {  // turns each pair around, and back
    __syncthreads();
    numbers[i] = value;
    if (a.mistake != no_warp_barrier) __syncwarp();
    value = __shfl_xor_sync(~0u, numbers[i ^ 1], 1);
  }
  a.out[a.mistake == two_blocks ? i : place + i + (a.mistake == beyond_output)] = value;
}

}  // namespace

int main(int count, char** given) {
  constexpr int kThreads = 64, kBlocks = 3;
  for (int mistake = 0; mistake < 9; ++mistake) {
    if (count != 2 || std::strcmp(given[1], kNames[mistake]) != 0) continue;
    std::vector<float> in(kThreads * kBlocks + 1), out(kThreads * kBlocks);
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
    const Args args{static_cast<Mistake>(mistake), reinterpret_cast<unsigned char*>(in.data()), out.data(), INT32_MAX};
    launch("turn_around", turn_around, kBlocks, kThreads, kThreads * sizeof(float), {}, args);
    int wrong = 0;
    for (int i = 0; i < kThreads * kBlocks; ++i)
      wrong += out[i] != static_cast<float>(i / kThreads * kThreads + kThreads - 1 - i % kThreads);
    std::printf("%d wrong\n", wrong);
    return 0;
  }
  return 2;
}
