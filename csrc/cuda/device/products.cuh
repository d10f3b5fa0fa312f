// A block's part of a matrix product. Its left factor is read from a tile in shared memory: word k of row m lies at
// offset(m) + tap(k). Matrix units compute it; or plain multiply-adds, for float32 and float64 in full precision.
#pragma once

#include "cuda/device/pixels.cuh"
#include "cuda/kernels/conv.h"

namespace equifast::cuda {

// The word at an offset in bytes. In the innermost loops this takes an addition less than an index would.
template <class Word>
__device__ inline Word word_at(const Word* tile, int32_t bytes) {
  return *reinterpret_cast<const Word*>(reinterpret_cast<const char*>(tile) + bytes);
}

struct alignas(8) WordPair {
  uint32_t at[2];
};

// The bits of a number in a word: tf32 is rounded.
__device__ inline uint32_t bits_of(half v) { return v.bits; }
__device__ inline uint32_t bits_of(bfloat16 v) { return v.bits; }
__device__ inline uint32_t bits_of(float v) { return float_to_bits(to_tf32(v)); }

// The words of matrix units: two 16-bit numbers, or one number that is read as tf32.
template <class T>
struct MatrixWords {
  using Pixel = T;
  using Word = uint32_t;
  using Sum = float;
  static constexpr int kNumbers = 4 / sizeof(T);

  __device__ static Word word(T first, T second) {
    return kNumbers == 1 ? bits_of(first) : bits_of(first) | bits_of(second) << 16;
  }
  // Writes number k of a word alone.
  __device__ static void put(Word* word, int k, T v) {
    if constexpr (kNumbers == 1) *word = bits_of(v);
    else reinterpret_cast<T*>(word)[k] = v;
  }
};

// The words of plain multiply-adds: one number.
template <class A>
struct PlainWords {
  using Pixel = A;
  using Word = A;
  using Sum = A;
  static constexpr int kNumbers = 1;

  __device__ static Word word(A v, A) { return v; }
  __device__ static void put(Word* word, int, A v) { *word = v; }
};

// The products below have kRows by kColumns. Without spills, registers leave room for kBlocks blocks on a
// multiprocessor (docs/cuda_kernels.md).

// On matrix units. T is half or bfloat16; or float, for tf32. Each of four warps has 2 × 16 rows of all columns.
template <class T, int kColumnTiles>
struct MatrixProduct : MatrixWords<T> {
  using typename MatrixWords<T>::Word;
  static constexpr int kRows = 128, kColumns = 8 * kColumnTiles;
  static constexpr int kBlocks = kColumnTiles > 2 ? 3 : sizeof(T) == 4 ? 5 : 6;

  float sum[2][kColumnTiles][4] = {};
  int32_t offset[2][2];

  __device__ static int row(int f, int half) {
    return threadIdx.x / 32 * 32 + 16 * f + 8 * half + threadIdx.x % 32 / 4;
  }

  // Sets where the rows of this thread lie: offset_of(m), in words from the first of the tile.
  template <class F>
  __device__ void place(F offset_of) {
    for (int f = 0; f < 2; ++f)
      for (int h = 0; h < 2; ++h) offset[f][h] = offset_of(row(f, h)) * sizeof(Word);
  }

  // Adds a pass to the sum. weights: (steps, kColumns / 8, lanes) pairs of words.
  __device__ void add(const WordTap* taps, int32_t, int32_t steps, const Word* tile, const void* weights) {
    const int lane = threadIdx.x % 32, t = lane % 4;
    const auto* pairs = static_cast<const WordPair*>(weights) + lane;
#pragma unroll 2  // more would take all registers
    for (int32_t step = 0; step < steps; ++step) {
      const WordTap low = taps[8 * step + t], high = taps[8 * step + t + 4];  // words t and t + 4 of a step
      WordPair b[kColumnTiles];
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) b[n] = pairs[(int64_t(step) * kColumnTiles + n) * 32];
#pragma unroll
      for (int f = 0; f < 2; ++f) {
        uint32_t a[4];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          a[h] = word_at(tile, offset[f][h] + low.offset) & low.mask;
          a[h + 2] = word_at(tile, offset[f][h] + high.offset) & high.mask;
        }
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) mma(T{}, sum[f][n], a, b[n].at);
      }
    }
  }

  // Calls put(m, n, value) for the sums of this thread.
  template <class F>
  __device__ void each(F put) const {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int f = 0; f < 2; ++f)
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
        for (int k = 0; k < 4; ++k) put(row(f, k / 2), 8 * n + 2 * t + k % 2, sum[f][n][k]);
  }

  // The index of word w of column n in the packed weights.
  EQUIFAST_HD static int64_t packed(int64_t w, int64_t n) {
    return (((w / 8 * kColumnTiles + n / 8) * 32 + n % 8 * 4 + w % 4) * 2) + w % 8 / 4;
  }
};

// In plain multiply-adds. A is float or double. Each thread has kR rows and kC columns.
template <class A, int kR, int kC, int kWidth>
struct PlainProduct : PlainWords<A> {
  using typename PlainWords<A>::Word;
  static constexpr int kThreadsAcross = kWidth / kC, kThreadsDown = kConvThreads / kThreadsAcross;
  static constexpr int kRows = kR * kThreadsDown, kColumns = kWidth, kBlocks = 3;

  A sum[kR][kC] = {};
  int32_t offset[kR];

  __device__ static int row(int i) { return threadIdx.x / kThreadsAcross + i * kThreadsDown; }
  __device__ static int column() { return threadIdx.x % kThreadsAcross * kC; }

  template <class F>
  __device__ void place(F offset_of) {
    for (int i = 0; i < kR; ++i) offset[i] = offset_of(row(i)) * sizeof(Word);
  }

  // Adds a pass to the sum. weights: (words, kColumns).
  __device__ void add(const WordTap* taps, int32_t words, int32_t, const Word* tile, const void* weights) {
    constexpr int kSize = Vector<A>::kSize;
    const auto* first = static_cast<const A*>(weights) + column();
#pragma unroll(kR* kC > 32 ? 1 : 2)
    for (int32_t w = 0; w < words; ++w) {
      const int32_t tap = taps[w].offset;
      A right[kC];
#pragma unroll
      for (int n = 0; n < kC; n += kSize) {
        const auto v = *reinterpret_cast<const Vector<A>*>(first + int64_t(w) * kWidth + n);
#pragma unroll
        for (int k = 0; k < kSize; ++k) right[n + k] = v.at[k];
      }
#pragma unroll
      for (int i = 0; i < kR; ++i) {
        const A left = word_at(tile, offset[i] + tap);
#pragma unroll
        for (int n = 0; n < kC; ++n) sum[i][n] = fma(left, right[n], sum[i][n]);
      }
    }
  }

  template <class F>
  __device__ void each(F put) const {
#pragma unroll
    for (int i = 0; i < kR; ++i)
#pragma unroll
      for (int n = 0; n < kC; ++n) put(row(i), column() + n, sum[i][n]);
  }

  EQUIFAST_HD static int64_t packed(int64_t w, int64_t n) { return w * kWidth + n; }
};

template <class Product>
constexpr ProductShape shape_of = {Product::kRows,
                                   Product::kColumns,
                                   {Product::kNumbers, sizeof(typename Product::Word), sizeof(typename Product::Sum)}};

// Calls f with a product that suits so many columns.
template <Math math, class Narrow, class Wide, class F>
void visit_width(int64_t columns, F f) {
  static_assert(shape_of<Narrow> == product_shape(math, kNarrow), "host code plans for another product");
  static_assert(shape_of<Wide> == product_shape(math, kNarrow + 1), "host code plans for another product");
  columns <= kNarrow ? f(Narrow()) : f(Wide());
}

template <class F>
void visit_product(Math math, int64_t columns, F f) {
  switch (math) {
    case Math::float64:
      return visit_width<Math::float64, PlainProduct<double, 4, 4, 16>, PlainProduct<double, 4, 4, 64>>(columns, f);
    case Math::float32:
      return visit_width<Math::float32, PlainProduct<float, 8, 4, 16>, PlainProduct<float, 8, 8, 64>>(columns, f);
    case Math::tf32: return visit_width<Math::tf32, MatrixProduct<float, 2>, MatrixProduct<float, 8>>(columns, f);
    case Math::float16: return visit_width<Math::float16, MatrixProduct<half, 2>, MatrixProduct<half, 8>>(columns, f);
    case Math::bfloat16:
      return visit_width<Math::bfloat16, MatrixProduct<bfloat16, 2>, MatrixProduct<bfloat16, 8>>(columns, f);
  }
}

}  // namespace equifast::cuda
