// Exact elements of images whose channels are interleaved: all channels of a pixel move together.
#pragma once

#include "cpu/kernels/permute.h"

namespace equifast::cpu {
namespace {

// Copies n pixels of `bytes` bytes, at least K; those of the source are `step` bytes apart. The last K bytes of a pixel
// are one copy, which may overlap the one before.
template <int64_t K>
void copy_pixels(const char* from, int64_t step, int64_t n, int64_t bytes, char* to) {
  for (int64_t j = 0; j < n; ++j, from += step, to += bytes)
    for (int64_t k = 0; k < bytes; k += K) std::memcpy(to + smaller(k, bytes - K), from + smaller(k, bytes - K), K);
}

// The same for less than K bytes, but more than half of them. A copy of K bytes reads and writes beyond its pixel. What
// it wrote there is written again by the next one. The first and the last pixel are copied in two parts: one of them
// may be the last pixel of the source.
template <int64_t K>
void copy_small_pixels(const char* from, int64_t step, int64_t n, int64_t bytes, char* to) {
  copy_pixels<K / 2>(from, step, smaller(n, 1), bytes, to);
  for (int64_t j = 1; j < n - 1; ++j) std::memcpy(to + j * bytes, from + j * step, K);
  if (n > 1) copy_pixels<K / 2>(from + (n - 1) * step, step, 1, bytes, to + (n - 1) * bytes);
}

inline void copy_pixels(const char* from, int64_t step, int64_t n, int64_t bytes, char* to) {
  if (step == bytes) std::memcpy(to, from, n * bytes);
  else if (bytes >= kVectorBytes) copy_pixels<kVectorBytes>(from, step, n, bytes, to);
  else if (bytes > 32) copy_small_pixels<64>(from, step, n, bytes, to);
  else if (bytes == 32) copy_pixels<32>(from, step, n, bytes, to);
  else if (bytes > 16) copy_small_pixels<32>(from, step, n, bytes, to);
  else if (bytes == 16) copy_pixels<16>(from, step, n, bytes, to);
  else if (bytes > 8) copy_small_pixels<16>(from, step, n, bytes, to);
  else if (bytes == 8) copy_pixels<8>(from, step, n, bytes, to);
  else if (bytes > 4) copy_small_pixels<8>(from, step, n, bytes, to);
  else copy_pixels<4>(from, step, n, bytes, to);
}

// Writes rows [i0, i1) of the permuted image, which is H × W pixels of C neighbours, to the contiguous (i1 − i0, W, C)
// at out. Rows of the source are `stride` values apart, its pixels are `column` values apart.
template <class Pixel>
void permute_pixels(int code, const Pixel* source, int64_t stride, int64_t column, int64_t H, int64_t W, int64_t C,
                    int64_t i0, int64_t i1, Pixel* out) {
  const Permutation p(code);
  const int64_t down = p.reverse_row ? -stride : stride, right = p.reverse_col ? -column : column;
  const Pixel* origin = source + (p.reverse_row ? H - 1 : 0) * stride + (p.reverse_col ? W - 1 : 0) * column;
  // Where rows become columns, a few pixels of each row are copied at a time: then the cache lines of the source that
  // these touch are used again at once by the next row.
  constexpr int64_t kColumns = 32;
  const int64_t columns = p.transposed ? kColumns : W, step_i = p.transposed ? right : down,
                step_j = p.transposed ? down : right;
  for (int64_t j = 0; j < W; j += columns)
    for (int64_t i = i0; i < i1; ++i)
      copy_pixels(reinterpret_cast<const char*>(origin + i * step_i + j * step_j), step_j * int64_t(sizeof(Pixel)),
                  smaller(columns, W - j), C * int64_t(sizeof(Pixel)),
                  reinterpret_cast<char*>(out + ((i - i0) * W + j) * C));
}

}  // namespace
}  // namespace equifast::cpu
