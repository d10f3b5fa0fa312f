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

// Stores that go around the cache: a line that is written whole is not read before. That is twice as fast where memory
// is the limit (orbit of D4, 64×3×96×96), and only where the lines of a row are whole vectors.
#ifdef __AVX512F__
constexpr int64_t kLineBytes = 64;
inline bool starts_line(const void* p) { return reinterpret_cast<uintptr_t>(p) % kLineBytes == 0; }
template <class Vector>
inline void store_line(void* to, const Vector& v) {
  static_assert(sizeof(Vector) == kLineBytes);
  _mm512_stream_si512(static_cast<__m512i*>(to), reinterpret_cast<const __m512i&>(v));
}
// Makes what was stored visible to other threads.
inline void finish_lines() { _mm_sfence(); }

template <class T>
struct Line {
  static constexpr int64_t K = kLineBytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(kLineBytes), aligned(alignof(T)), may_alias));

  template <size_t... k>
  static inline void reverse(Vector& v, std::index_sequence<k...>) {
    v = __builtin_shufflevector(v, v, (K - 1 - int64_t(k))...);
  }
};

// Writes n pixels in order, or in reverse.
template <bool kReversed, class T>
inline void store_row(const T* from, T* to, int64_t n) {
  using Vector = typename Line<T>::Vector;
  constexpr int64_t K = Line<T>::K;
  const auto source = [&](int64_t j, int64_t count) { return from + (kReversed ? n - count - j : j); };
  int64_t j = 0;
  for (; j < n && !starts_line(to + j); ++j) to[j] = *source(j, 1);
  for (; j + K <= n; j += K) {
    Vector v = *reinterpret_cast<const Vector*>(source(j, K));
    if constexpr (kReversed) Line<T>::reverse(v, std::make_index_sequence<K>());
    store_line(to + j, v);
  }
  for (; j < n; ++j) to[j] = *source(j, 1);
}
#else
inline void finish_lines() {}
#endif

// Copies n pixels, around the cache if the instruction set can.
template <class Pixel>
void copy_around(const Pixel* from, Pixel* to, int64_t n) {
#ifdef __AVX512F__
  using T = typename BitsOf<sizeof(Pixel)>::type;
  store_row<false>(reinterpret_cast<const T*>(from), reinterpret_cast<T*>(to), n);
#else
  std::memcpy(to, from, n * sizeof(Pixel));
#endif
}

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
  template <bool kLines = false>
  static inline void transpose(const T* source, int64_t source_step, T* out, int64_t out_step) {
    Vector row[K];
#pragma GCC unroll 16
    for (int r = 0; r < K; ++r) row[r] = *reinterpret_cast<const Vector*>(source + r * source_step);
    round<1>(row);
#pragma GCC unroll 16
    for (int r = 0; r < K; ++r) {
#ifdef __AVX512F__
      if constexpr (kLines && sizeof(Vector) == kLineBytes) {
        store_line(out + r * out_step, row[r]);
        continue;
      }
#endif
      *reinterpret_cast<Vector*>(out + r * out_step) = row[r];
    }
  }
};

// Writes rows [i0, i1) of the permuted plane, which is H × W, to out, whose first row is row i0; around the cache if
// `around` says so and the instruction set can. Then finish_lines() has to follow.
template <class Pixel>
void permute_rows(int code, const Pixel* source_pixels, int64_t stride, int64_t H, int64_t W, int64_t i0, int64_t i1,
                  Pixel* out_pixels, int64_t out_stride, [[maybe_unused]] bool around = false) {
  using T = typename BitsOf<sizeof(Pixel)>::type;
  const T* source = reinterpret_cast<const T*>(source_pixels);
  T* out = reinterpret_cast<T*>(out_pixels);
  const Permutation p(code);

  if (!p.transposed) {
    for (int64_t i = i0; i < i1; ++i) {
      const T* from = source + (p.reverse_row ? H - 1 - i : i) * stride;
      T* to = out + (i - i0) * out_stride;
#ifdef __AVX512F__
      if (around) {
        p.reverse_col ? store_row<true>(from, to, W) : store_row<false>(from, to, W);
        continue;
      }
#endif
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
        const T* tile = from + (p.reverse_col ? N - K - i : i);
        const int64_t step = p.reverse_row ? -stride : stride, out_step = p.reverse_col ? -out_stride : out_stride;
#ifdef __AVX512F__
        if (around && starts_line(to) && out_stride * sizeof(T) % kLineBytes == 0) {
          Tile<T>::template transpose<true>(tile, step, to, out_step);
          continue;
        }
#endif
        Tile<T>::transpose(tile, step, to, out_step);
      }
    }
}

}  // namespace
}  // namespace equifast::cpu
