// A block of kBlock channels in registers, and how blocks of pixels get to planes of one channel each and back.
#pragma once

#include "cpu/kernels/conv2d.h"
#include "cpu/kernels/permute.h"
#include "cpu/kernels/pixels.h"

namespace equifast::cpu {
namespace {

// A block takes kLanes registers. GCC would pass generic vectors that are wider through memory.
constexpr int kLanes = kBlock * 4 / kVectorBytes;
typedef float Vector __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));

#if defined(__AVX512F__)
// A pixel for all channels of a block, in a register. The processor loads about one such vector a cycle but multiplies
// two, so several products have to share it; the compiler would fold a load of its own into each of them.
inline Vector shared_pixel(const float* pixel) {
  Vector v = *pixel - Vector{};  // x − 0 is x, even where x is −0
  asm volatile("" : "+v"(v));
  return v;
}
#endif

// The first pixels of tiles of K that cover n ≥ K pixels: the last tile moves back to fit.
template <class Copy>
inline void for_tiles(int64_t n, int64_t K, Copy copy) {
  for (int64_t tile = 0; tile < n; tile += K) copy(smaller(tile, n - K));
}

// Copies n pixels of a block, (n, kBlock), to the first `channels` planes at `out`, which are `plane` values apart.
inline void pixels_to_planes(const float* pixels, int64_t n, int64_t channels, float* out, int64_t plane) {
  using T = Tile<uint32_t>;
  if (channels < kBlock || n < T::K) {
    for (int64_t j = 0; j < n; ++j)
      for (int64_t c = 0; c < channels; ++c) out[c * plane + j] = pixels[j * kBlock + c];
    return;
  }
  for_tiles(n, T::K, [=](int64_t j) {
    for (int64_t c = 0; c < kBlock; c += T::K)
      T::transpose(reinterpret_cast<const uint32_t*>(pixels + j * kBlock + c), kBlock,
                   reinterpret_cast<uint32_t*>(out + c * plane + j), plane);
  });
}

// The reverse, with zeros in place of the channels that are missing.
inline void planes_to_pixels(const float* planes, int64_t plane, int64_t n, int64_t channels, float* out) {
  using T = Tile<uint32_t>;
  if (channels < kBlock || n < T::K) {
    if (channels < kBlock) std::memset(out, 0, n * kBlock * sizeof(float));
    for (int64_t j = 0; j < n; ++j)
      for (int64_t c = 0; c < channels; ++c) out[j * kBlock + c] = planes[c * plane + j];
    return;
  }
  for_tiles(n, T::K, [=](int64_t j) {
    for (int64_t c = 0; c < kBlock; c += T::K)
      T::transpose(reinterpret_cast<const uint32_t*>(planes + c * plane + j), plane,
                   reinterpret_cast<uint32_t*>(out + j * kBlock + c), kBlock);
  });
}

// Copies n pixels of `channels` ≤ kBlock channels between rows of different steps. Whole blocks are copied in
// registers.
inline void copy_pixels(const float* from, int64_t from_step, int64_t n, int64_t channels, float* to, int64_t to_step) {
  if (channels < kBlock) {
    for (int64_t j = 0; j < n; ++j) std::memcpy(to + j * to_step, from + j * from_step, channels * sizeof(float));
    return;
  }
  for (int64_t j = 0; j < n; ++j) std::memcpy(to + j * to_step, from + j * from_step, kBlock * sizeof(float));
}

}  // namespace
}  // namespace equifast::cpu
