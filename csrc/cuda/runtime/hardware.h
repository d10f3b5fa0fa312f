// What kernels need of the hardware beyond CUDA C++: 16-bit floats, matrix instructions and launches. For tests without
// a GPU, emulation.h (in tests/) takes the place of all this, and of the CUDA C++ that the sources use.
#pragma once

#include <cstdint>

#ifdef EQUIFAST_EMULATED
#include "emulation.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace equifast::cuda {

struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

#ifdef __CUDACC__  // other compilers, of host code, see the rest of this file only

__device__ inline float widen(half v) { return __half2float(__ushort_as_half(v.bits)); }
__device__ inline float widen(bfloat16 v) { return __bfloat162float(__ushort_as_bfloat16(v.bits)); }

// These round to the nearest, and ties to even.
__device__ inline half to_half(float v) { return {__half_as_ushort(__float2half_rn(v))}; }
__device__ inline bfloat16 to_bfloat16(float v) { return {__bfloat16_as_ushort(__float2bfloat16_rn(v))}; }

// The nearest float with a mantissa of ten bits, as the matrix units read it.
__device__ inline float to_tf32(float v) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return __uint_as_float(bits);
}

// One warp computes c += a · b, where a is 16 × 8 words, b is 8 × 8 words and c is 16 × 8 numbers. A word is two 16-bit
// numbers, or one number of tf32. With g = lane / 4 and t = lane % 4, a lane has of a: rows g and g + 8 of word t, then
// of word t + 4; of b: words t and t + 4 of column g; of c: columns 2t and 2t + 1 of row g, then of row g + 8.
__device__ inline void mma(half, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma(bfloat16, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma(float, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
__device__ inline uint32_t float_to_bits(float v) { return __float_as_uint(v); }

// The memory that a block shares: as much as its launch asked for.
template <class T>
__device__ inline T* shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}

#endif

using Stream = cudaStream_t;

inline void check(cudaError_t error, const char* name) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(name) + ": " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error));
}

#ifdef __CUDACC__
// Runs kernel(args) on `blocks` blocks of `threads` threads that share `shared` bytes.
template <class Args>
void launch(const char* name, void (*kernel)(Args), int64_t blocks, int threads, int64_t shared, Stream stream,
            const Args& args) {
  if (blocks <= 0) return;
  if (blocks > INT32_MAX) throw std::runtime_error(std::string(name) + ": expected at most 2^31 - 1 blocks");
  if (shared > (48 << 10))  // more than a kernel may have without being allowed to
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)), name);
  // clang-format off
  kernel<<<static_cast<unsigned>(blocks), threads, shared, stream>>>(args);
  // clang-format on
  check(cudaGetLastError(), name);
}
#endif

// What host code plans by.
struct Device {
  int processors;  // multiprocessors
  int shared;      // bytes that one block may share
};

// The current device.
inline Device device() {
  int index = 0, processors = 0, shared = 0;
  check(cudaGetDevice(&index), "device");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, index), "device");
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index), "device");
  return {processors, shared};
}

}  // namespace equifast::cuda

#endif
