// Exact elements of a pixel grid: copies, reversed copies and blocked transposes. Of a pixel type, only the size
// matters.
#pragma once

#include <utility>

#include "cpu/kernels/pixels.h"
#include "geometry.h"

namespace equifast::cpu {
namespace {

template <int kBytes>
struct BitsOf;
template <>
struct BitsOf<2> {
  using type = uint16_t;
};
template <>
struct BitsOf<4> {
  using type = uint32_t;
};
template <>
struct BitsOf<8> {
  using type = uint64_t;
};

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// A K × K tile in K vectors. It is transposed in log2(K) rounds, each of which exchanges blocks across the diagonal.
template <class T>
struct Tile {
  static constexpr int K = kVectorBytes / static_cast<int>(sizeof(T)) < 16 ? kVectorBytes / sizeof(T) : 16;
  typedef T Vector __attribute__((vector_size(K * sizeof(T)), aligned(alignof(T)), may_alias));

  template <int kBlock, size_t... k>
  static inline void exchange(Vector& a, Vector& b, std::index_sequence<k...>) {
    const Vector low = __builtin_shufflevector(a, b, ((k & kBlock) ? int(k) - kBlock + K : int(k))...);
    const Vector high = __builtin_shufflevector(a, b, ((k & kBlock) ? int(k) + K : int(k) + kBlock)...);
    a = low;
    b = high;
  }

  template <int kBlock>
  static inline void round(Vector* row) {
    if constexpr (kBlock < K) {
#pragma GCC unroll 16
      for (int r = 0; r < K; ++r)
        if (!(r & kBlock)) exchange<kBlock>(row[r], row[r + kBlock], std::make_index_sequence<K>());
      round<2 * kBlock>(row);
    }
  }

  // The rows of the source are source_step apart, and become columns. The rows of the output are out_step apart.
  static inline void transpose(const T* source, int64_t source_step, T* out, int64_t out_step) {
    Vector row[K];
#pragma GCC unroll 16
    for (int r = 0; r < K; ++r) row[r] = *reinterpret_cast<const Vector*>(source + r * source_step);
    round<1>(row);
#pragma GCC unroll 16
    for (int r = 0; r < K; ++r) *reinterpret_cast<Vector*>(out + r * out_step) = row[r];
  }
};

// Writes rows [i0, i1) of the permuted plane, which is H × W, to out, whose first row is row i0.
template <class Pixel>
void permute_rows(int code, const Pixel* source_pixels, int64_t stride, int64_t H, int64_t W, int64_t i0, int64_t i1,
                  Pixel* out_pixels, int64_t out_stride) {
  using T = typename BitsOf<sizeof(Pixel)>::type;
  const T* source = reinterpret_cast<const T*>(source_pixels);
  T* out = reinterpret_cast<T*>(out_pixels);
  const Permutation p(code);

  if (!p.transposed) {
    for (int64_t i = i0; i < i1; ++i) {
      const T* from = source + (p.reverse_row ? H - 1 - i : i) * stride;
      T* to = out + (i - i0) * out_stride;
      if (p.reverse_col)
        for (int64_t j = 0; j < W; ++j) to[j] = from[W - 1 - j];
      else std::memcpy(to, from, W * sizeof(T));
    }
    return;
  }

  // A quarter turn, so the plane is square: source row follows j, source column follows i.
  constexpr int64_t K = Tile<T>::K;
  const int64_t N = W;
  if (N < K || i1 - i0 < K) {
    for (int64_t i = i0; i < i1; ++i)
      for (int64_t j = 0; j < N; ++j)
        out[(i - i0) * out_stride + j] =
            source[(p.reverse_row ? N - 1 - j : j) * stride + (p.reverse_col ? N - 1 - i : i)];
    return;
  }
  // The output is made in strips that are a few tiles high: then the cache lines and pages of the source that a tile
  // touches are used again at once by its neighbours. The last tile on each axis moves back to fit, and writes some
  // pixels twice.
  constexpr int64_t kStrip = 4 * K;
  for (int64_t strip = i0; strip < i1; strip += kStrip)
    for (int64_t tj = 0; tj < N; tj += K) {
      const int64_t j = smaller(tj, N - K);
      const T* from = source + (p.reverse_row ? N - 1 - j : j) * stride;
      for (int64_t ti = strip; ti < smaller(strip + kStrip, i1); ti += K) {
        const int64_t i = smaller(ti, i1 - K);
        T* to = out + (p.reverse_col ? i + K - 1 - i0 : i - i0) * out_stride + j;
        Tile<T>::transpose(from + (p.reverse_col ? N - K - i : i), p.reverse_row ? -stride : stride, to,
                           p.reverse_col ? -out_stride : out_stride);
      }
    }
}

}  // namespace
}  // namespace equifast::cpu
