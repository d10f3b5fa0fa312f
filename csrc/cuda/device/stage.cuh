// Stages tiles of images that are nowhere in memory into shared memory, as words: of a member of an orbit, which is
// permuted while it is read, or of a permuted gradient.
#pragma once

#include "cuda/device/members.cuh"
#include "cuda/device/products.cuh"

namespace equifast::cuda {

// A permuted image: pixel (c, i, j) lies at origin + c · channel + i · down + j · right, and it is 0 unless i is one of
// `count_i` rows from first_i on, and j the same of columns.
template <class T>
struct StridedSource {
  const T* origin;
  int64_t channel, down, right;
  int32_t first_i, first_j;
  uint32_t count_i, count_j;

  __device__ T pixel(int32_t c, int32_t i, int32_t j) const {
    const bool inside = static_cast<uint32_t>(i - first_i) < count_i && static_cast<uint32_t>(j - first_j) < count_j;
    return inside ? origin[c * channel + i * down + j * right] : T{};
  }
};

// A member of image b, which permutes it or its base image. Args are of a convolution or of its weight gradient.
template <class T, class Args>
__device__ StridedSource<T> source_of(const Args& a, const Member& member, int32_t b) {
  const StridedInput& in = member.source == 0 ? a.in : a.bases;
  const int64_t image = member.source == 0 ? b : int64_t(member.source - 1) * a.batch + b;
  const ExactView view(member.code, {a.in_h, a.in_w, false}, in.h, in.w);
  const T* origin = static_cast<const T*>(in.data) + image * in.n + view.origin;
  return {origin, in.c, view.down, view.right, 0, 0, static_cast<uint32_t>(a.in_h), static_cast<uint32_t>(a.in_w)};
}

// How many rows of the source row n of a tile lies below the first.
__device__ inline int32_t source_row(const TileLayout& t, int32_t n) {
  if (!t.apart) return n;
  const int32_t row = t.by_kernel_rows.split(n);
  return n * t.stride + row * t.dilation;
}

// Stages a permuted image: the words (channels, rows, words) of a tile whose first pixel is (first_c, i0, j0). A few
// neighbouring threads go together along the axis that is closest in the memory of the source, so most of an address is
// the same for all that a thread reads in a row. With loops unrolled, ptxas spilled registers.
template <class Product, class T>
__device__ void stage(const TileLayout& t, const StridedSource<T>& source, int32_t first_c, int32_t channels,
                      int32_t i0, int32_t j0, typename Product::Word* tile) {
  constexpr int32_t kTogether = 8;
  const int32_t lane = threadIdx.x % kTogether, group = threadIdx.x / kTogether, groups = kConvThreads / kTogether;
  const auto put = [&](int32_t c, int32_t row, int32_t q) {
    const int32_t i = i0 + source_row(t, row), j = j0 + (t.dense ? 2 * q : q);
    typename Product::Word word{};
    if (first_c + c < channels) {
      const T first = source.pixel(first_c + c, i, j);
      word = Product::word(first, Product::kNumbers > 1 ? source.pixel(first_c + c, i, j + t.pair) : T{});
    }
    tile[c * t.plane + row * t.pitch + q] = word;
  };
  if (source.channel == 1 && t.channels > 1) {
#pragma unroll 1
    for (int32_t n = group; n < t.rows * t.words; n += groups) {
      int32_t row = n;
      const int32_t q = t.by_words.split(row);
#pragma unroll 1
      for (int32_t c = lane; c < t.channels; c += kTogether) put(c, row, q);
    }
  } else if (llabs(source.down) < llabs(source.right)) {
#pragma unroll 1
    for (int32_t n = group; n < t.channels * t.words; n += groups) {
      int32_t c = n;
      const int32_t q = t.by_words.split(c);
#pragma unroll 1
      for (int32_t row = lane; row < t.rows; row += kTogether) put(c, row, q);
    }
  } else {
#pragma unroll 1
    for (int32_t n = group; n < t.channels * t.rows; n += groups) {
      int32_t c = n;
      const int32_t row = t.by_rows.split(c);
#pragma unroll 1
      for (int32_t q = lane; q < t.words; q += kTogether) put(c, row, q);
    }
  }
}

}  // namespace equifast::cuda
