// Stages tiles of images that are nowhere in memory into shared memory, as words: of a member of an orbit, which is
// rotated or reflected while it is read, or of a permuted gradient.
#pragma once

#include "cuda/device/members.cuh"
#include "cuda/device/products.cuh"

namespace equifast::cuda {

// A permuted image: pixel (c, i, j) lies at origin + c · channel + i · down + j · right, and it is 0 outside the
// bounds.
template <class T>
struct StridedSource {
  const T* origin;
  int64_t channel, down, right;
  int32_t first_i, end_i, first_j, end_j;

  __device__ T pixel(int32_t c, int32_t i, int32_t j) const {
    const bool inside = i >= first_i && i < end_i && j >= first_j && j < end_j;
    return inside ? origin[c * channel + i * down + j * right] : T{};
  }
};

// The member of the orbit of `image` (H, W) whose element permutes its pixels.
template <class T>
__device__ StridedSource<T> exact_member(const StridedInput& x, const T* image, int code, int32_t H, int32_t W) {
  const ExactView view(code, {H, W, false}, x.h, x.w);
  return {image + view.origin, x.c, view.down, view.right, 0, H, 0, W};
}

// How many rows of the source row n of a tile lies below the first.
__device__ inline int32_t source_row(const TileLayout& t, int32_t n) {
  if (!t.apart) return n;
  const int32_t row = t.by_kernel_rows.split(n);
  return n * t.stride + row * t.dilation;
}

// Stages a permuted image: the words (channels, rows, words) of a tile whose first pixel is (first_c, i0, j0). This is
// three nested loops in one; which index runs fastest follows the memory of the source.
template <class Product, class T>
__device__ void stage(const TileLayout& t, const StridedSource<T>& source, int32_t first_c, int32_t channels,
                      int32_t i0, int32_t j0, typename Product::Word* tile) {
  const bool by_channel = source.channel == 1 && t.channels > 1;
  const bool by_row = !by_channel && abs(source.down) < abs(source.right);
#pragma unroll 2
  for (int32_t n = threadIdx.x; n < t.channels * t.rows * t.words; n += kConvThreads) {
    int32_t rest = n, c = 0, row = 0;
    if (by_channel) c = t.by_channels.split(rest);
    if (by_row) row = t.by_rows.split(rest);
    const int32_t q = t.by_words.split(rest);
    if (!by_row) row = t.by_rows.split(rest);
    if (!by_channel) c = rest;
    const int32_t i = i0 + source_row(t, row), j = j0 + (t.dense ? 2 * q : q);
    typename Product::Word word{};
    if (first_c + c < channels) {
      const T first = source.pixel(first_c + c, i, j);
      word = Product::word(first, Product::kNumbers > 1 ? source.pixel(first_c + c, i, j + t.pair) : T{});
    }
    tile[c * t.plane + row * t.pitch + q] = word;
  }
}

// Stages a member that interpolates, a number at a time. axes: the offsets of the tile's rows, then of its columns.
template <class Product, class T>
__device__ void stage(const TileLayout& t, const StridedInput& x, const T* image, const Grid& grid, const Offsets* axes,
                      int32_t first_c, int32_t channels, int32_t i0, int32_t j0, typename Product::Word* tile) {
  constexpr int kNumbers = Product::kNumbers;
#pragma unroll 1
  for (int32_t n = threadIdx.x; n < kNumbers * t.rows * t.words; n += kConvThreads) {
    const int32_t number = n % kNumbers;
    int32_t row = n / kNumbers;
    const int32_t q = t.by_words.split(row), column = t.dense ? 2 * q + number : q + number * t.pair;
    const int32_t i = i0 + source_row(t, row), j = j0 + column;
    const bool inside = i >= 0 && i < grid.H && j >= 0 && j < grid.W;
    const Corners<Acc<T>> corners(axes[row], axes[t.rows + column], grid);
#pragma unroll 1
    for (int32_t c = 0; c < t.channels; ++c) {
      T pixel{};  // rounded, as it would be if the member were in memory
      if (inside && first_c + c < channels)
        pixel = narrow<T>(corners.of(Plane<T>{image + (first_c + c) * x.c, x.h, x.w}));
      Product::put(tile + c * t.plane + row * t.pitch + q, number, pixel);
    }
  }
}

// Lists the offsets of a tile's rows and columns, for an element that interpolates by m.
__device__ inline void list_axes(const TileLayout& t, const Matrix& m, const Grid& g, int32_t i0, int32_t j0,
                                 Offsets* axes) {
  for (int32_t n = threadIdx.x; n < t.rows + t.columns(); n += kConvThreads)
    axes[n] = n < t.rows ? row_offsets(m, g, i0 + source_row(t, n)) : column_offsets(m, g, j0 + n - t.rows);
}

}  // namespace equifast::cuda
