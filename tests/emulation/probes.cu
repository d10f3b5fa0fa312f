// Functions of the emulation, called from Python, which compares the results with what CUDA promises. Each `probe_`
// function runs one launch, or converts an array of numbers.
#include <cstdint>

#include "cuda/device/pixels.cuh"

namespace {

using namespace equifast::cuda;

struct Mma {
  const uint32_t* a;  // (32, 4), a row for each lane
  const uint32_t* b;  // (32, 2)
  float* c;           // (32, 4), added to
};

template <class T>
__global__ void mma_kernel(const __grid_constant__ Mma args) {
  const int lane = threadIdx.x;
  uint32_t a[4], b[2];
  float c[4];
  for (int i = 0; i < 4; ++i) a[i] = args.a[4 * lane + i], c[i] = args.c[4 * lane + i];
  for (int i = 0; i < 2; ++i) b[i] = args.b[2 * lane + i];
  mma(T{}, c, a, b);
  for (int i = 0; i < 4; ++i) args.c[4 * lane + i] = c[i];
}

struct Shuffle {
  int kind, argument;
  double* values;
};

__global__ void shuffle_kernel(const __grid_constant__ Shuffle args) {
  double& value = args.values[blockIdx.x * blockDim.x + threadIdx.x];
  value = args.kind == 0   ? __shfl_sync(~0u, value, args.argument)
          : args.kind == 1 ? __shfl_xor_sync(~0u, value, args.argument)
                           : __shfl_down_sync(~0u, value, args.argument);
}

struct Scan {
  const int64_t* in;
  int64_t* out;
};

// Prefix sums, in rounds with two barriers each. A thread that passed a barrier too early would change them.
__global__ void scan_kernel(const __grid_constant__ Scan args) {
  auto* sums = shared_memory<int64_t>();
  const int i = threadIdx.x, size = blockDim.x;
  sums[i] = args.in[blockIdx.x * size + i];
  __syncthreads();
  for (int step = 1; step < size; step *= 2) {
    const int64_t before = i >= step ? sums[i - step] : 0;
    __syncthreads();
    sums[i] += before;
    __syncthreads();
  }
  args.out[blockIdx.x * size + i] = sums[i];
}

struct Leave {
  uint32_t* found;  // (blocks, threads): what a thread finds in shared memory before it leaves something there
};

__global__ void leave_kernel(const __grid_constant__ Leave args) {
  auto* words = shared_memory<uint32_t>();
  args.found[blockIdx.x * blockDim.x + threadIdx.x] = words[threadIdx.x];
  words[threadIdx.x] = threadIdx.x;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {
void probe_mma(int kind, const uint32_t* a, const uint32_t* b, float* c) {
  auto* kernel = kind == 0 ? mma_kernel<half> : kind == 1 ? mma_kernel<bfloat16> : mma_kernel<float>;
  launch("mma", kernel, 1, kWarp, 0, {}, Mma{a, b, c});
}
void probe_shuffle(int kind, int argument, double* values, int blocks, int threads) {
  launch("shuffle", shuffle_kernel, blocks, threads, 0, {}, Shuffle{kind, argument, values});
}
void probe_scan(const int64_t* in, int64_t* out, int blocks, int threads) {
  launch("scan", scan_kernel, blocks, threads, threads * int64_t(sizeof(int64_t)), {}, Scan{in, out});
}
void probe_leave(uint32_t* found, int blocks, int threads) {
  launch("leave", leave_kernel, blocks, threads, threads * int64_t(sizeof(uint32_t)), {}, Leave{found});
}
void probe_narrow(const float* in, uint16_t* halves, uint16_t* bfloats, float* tf32, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    halves[i] = to_half(in[i]).bits;
    bfloats[i] = to_bfloat16(in[i]).bits;
    tf32[i] = to_tf32(in[i]);
  }
}
void probe_widen(const uint16_t* in, float* halves, float* bfloats, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    halves[i] = widen(half{in[i]});
    bfloats[i] = widen(bfloat16{in[i]});
  }
}
}
