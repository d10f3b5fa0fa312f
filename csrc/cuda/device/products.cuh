// A block's share of a matrix product whose left factor is read from a tile in shared memory: row m of it at offset(m)
// from each of the taps. On matrix units, or in plain multiply-adds for float32 and float64 to the last digit.
#pragma once

#include "cuda/kernels/conv.h"

namespace equifast::cuda {

constexpr int kConvThreads = 128;

// Where a word of the sum lies in the tile, in bytes, and which of its numbers count: others may be anything, NaN as
// well.
struct Tap {
  int32_t offset;
  uint32_t mask;
};

// The word at so many bytes: an addition less than an index would take, in the innermost loops.
template <class Word>
__device__ inline Word word_at(const Word* tile, int32_t bytes) {
  return *reinterpret_cast<const Word*>(reinterpret_cast<const char*>(tile) + bytes);
}

struct alignas(8) WordPair {
  uint32_t at[2];
};

// A number that a word holds, as its bits.
__device__ inline uint32_t bits_of(half v) { return v.bits; }
__device__ inline uint32_t bits_of(bfloat16 v) { return v.bits; }
__device__ inline uint32_t bits_of(float v) { return float_to_bits(to_tf32(v)); }

// Words of 16-bit numbers, or of one that is read as tf32.
template <class T>
struct MatrixWords {
  using Pixel = T;
  using Word = uint32_t;
  using Sum = float;
  static constexpr int kNumbers = 4 / sizeof(T);

  __device__ static Word word(T first, T second) {
    return kNumbers == 1 ? bits_of(first) : bits_of(first) | bits_of(second) << 16;
  }
  // Number k alone.
  __device__ static void put(Word* word, int k, T v) {
    if constexpr (kNumbers == 1) *word = bits_of(v);
    else reinterpret_cast<T*>(word)[k] = v;
  }
};

template <class A>
struct PlainWords {
  using Pixel = A;
  using Word = A;
  using Sum = A;
  static constexpr int kNumbers = 1;

  __device__ static Word word(A v, A) { return v; }
  __device__ static void put(Word* word, int, A v) { *word = v; }
};

// A product has kRows by kColumns; registers are to suffice for kBlocks blocks on a multiprocessor, and without spills.

// T: half, bfloat16, or float for tf32. Four warps, each 2 × 16 rows of all columns.
template <class T, int kColumnTiles>
struct MatrixProduct : MatrixWords<T> {
  using typename MatrixWords<T>::Word;
  static constexpr int kRows = 128, kColumns = 8 * kColumnTiles, kBlocks = kColumnTiles > 2 ? 3 : 6;

  float sum[2][kColumnTiles][4] = {};
  int32_t offset[2][2];

  __device__ static int row(int f, int half) {
    return threadIdx.x / 32 * 32 + 16 * f + 8 * half + threadIdx.x % 32 / 4;
  }

  // offset_of(m): in words, from the tile's first.
  template <class F>
  __device__ void place(F offset_of) {
    for (int f = 0; f < 2; ++f)
      for (int h = 0; h < 2; ++h) offset[f][h] = offset_of(row(f, h)) * sizeof(Word);
  }

  // weights: (steps, columns / 8, lane) pairs of words.
  __device__ void add(const Tap* taps, int32_t, int32_t steps, const Word* tile, const void* weights) {
    const int lane = threadIdx.x % 32, t = lane % 4;
    const auto* pairs = static_cast<const WordPair*>(weights) + lane;
#pragma unroll 2  // more would take all registers
    for (int32_t step = 0; step < steps; ++step) {
      const Tap near = taps[8 * step + t], far = taps[8 * step + t + 4];
      WordPair b[kColumnTiles];
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) b[n] = pairs[(int64_t(step) * kColumnTiles + n) * 32];
#pragma unroll
      for (int f = 0; f < 2; ++f) {
        uint32_t a[4];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          a[h] = word_at(tile, offset[f][h] + near.offset) & near.mask;
          a[h + 2] = word_at(tile, offset[f][h] + far.offset) & far.mask;
        }
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) mma(T{}, sum[f][n], a, b[n].at);
      }
    }
  }

  // Calls put(m, n, value) of what this thread has.
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

  // Where the packed weights have word w of column n.
  EQUIFAST_HD static int64_t packed(int64_t w, int64_t n) {
    return (((w / 8 * kColumnTiles + n / 8) * 32 + n % 8 * 4 + w % 4) * 2) + w % 8 / 4;
  }
};

// A: float or double. Each thread has kR rows and kC columns.
template <class A, int kR, int kC, int kWidth>
struct PlainProduct : PlainWords<A> {
  using typename PlainWords<A>::Word;
  static constexpr int kGroups = kWidth / kC, kRowGroups = kConvThreads / kGroups;
  static constexpr int kRows = kR * kRowGroups, kColumns = kWidth, kBlocks = 3;

  A sum[kR][kC] = {};
  int32_t offset[kR];

  __device__ static int row(int i) { return threadIdx.x / kGroups + i * kRowGroups; }
  __device__ static int column() { return threadIdx.x % kGroups * kC; }

  template <class F>
  __device__ void place(F offset_of) {
    for (int i = 0; i < kR; ++i) offset[i] = offset_of(row(i)) * sizeof(Word);
  }

  // weights: (words, columns).
  __device__ void add(const Tap* taps, int32_t words, int32_t, const Word* tile, const void* weights) {
    constexpr int kSize = Vector<A>::kSize;
    const auto* at = static_cast<const A*>(weights) + column();
#pragma unroll(kR* kC > 32 ? 1 : 2)
    for (int32_t w = 0; w < words; ++w) {
      const int32_t tap = taps[w].offset;
      A right[kC];
#pragma unroll
      for (int n = 0; n < kC; n += kSize) {
        const auto v = *reinterpret_cast<const Vector<A>*>(at + int64_t(w) * kWidth + n);
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

// Calls f with a product that fits: narrow ones waste less where there are few columns.
template <class F>
auto visit_product(Math math, int64_t columns, F f) {
  const bool narrow = columns <= 16;
  switch (math) {
    case Math::float64: return narrow ? f(PlainProduct<double, 4, 4, 16>()) : f(PlainProduct<double, 4, 4, 64>());
    case Math::float32: return narrow ? f(PlainProduct<float, 8, 4, 16>()) : f(PlainProduct<float, 8, 8, 64>());
    case Math::tf32: return narrow ? f(MatrixProduct<float, 2>()) : f(MatrixProduct<float, 8>());
    case Math::float16: return narrow ? f(MatrixProduct<half, 2>()) : f(MatrixProduct<half, 8>());
    case Math::bfloat16: break;
  }
  return narrow ? f(MatrixProduct<bfloat16, 2>()) : f(MatrixProduct<bfloat16, 8>());
}

}  // namespace equifast::cuda
