// Bilinear rows of a rotated plane. Positions and weights are computed once for all channels; then a pixel takes two
// loads of a pair each, and four products.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/pixels.h"
#include "geometry.h"

namespace equifast::cpu {
namespace {

#ifdef __AVX512F__
// first = source[at] and second = source[at + 1] for sixteen positions. Each pair comes with one load.
inline void load_pairs(const float* source, __m512i at, __m512& first, __m512& second) {
  const __m512 low = _mm512_castsi512_ps(_mm512_i32gather_epi64(_mm512_castsi512_si256(at), source, 4));
  const __m512 high = _mm512_castsi512_ps(_mm512_i32gather_epi64(_mm512_extracti64x4_epi64(at, 1), source, 4));
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  first = _mm512_permutex2var_ps(low, even, high);
  second = _mm512_permutex2var_ps(low, _mm512_add_epi32(even, _mm512_set1_epi32(1)), high);
}
inline void load_pairs(const bfloat16* source, __m512i at, __m512& first, __m512& second) {
  const __m512i pairs = _mm512_i32gather_epi32(at, source, 2);
  first = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  second = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))));
}
inline void load_pairs(const half* source, __m512i at, __m512& first, __m512& second) {
  const __m512i pairs = _mm512_i32gather_epi32(at, source, 2);
  first = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
  second = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16)));
}
#endif

// A vector of K values.
template <class T, int K>
struct VectorOf {
  typedef T type __attribute__((vector_size(K * sizeof(T)), aligned(alignof(T)), may_alias));
};

// out = K neighbours, in the accumulate type.
template <int K, class T>
inline void load_vector(const T* from, typename VectorOf<Acc<T>, K>::type& out) {
  using Vector = typename VectorOf<Acc<T>, K>::type;
  if constexpr (__is_same(T, Acc<T>)) {
    out = *reinterpret_cast<const Vector*>(from);
#ifdef __AVX2__
  } else if constexpr (__is_same(T, bfloat16) && K == 4) {
    // GCC makes several instructions of the conversion below.
    const __m128i bits = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    out = reinterpret_cast<Vector>(_mm_slli_epi32(bits, 16));
#endif
  } else if constexpr (__is_same(T, bfloat16)) {
    const auto bits = *reinterpret_cast<const typename VectorOf<uint16_t, K>::type*>(from);
    out = reinterpret_cast<Vector>(__builtin_convertvector(bits, typename VectorOf<uint32_t, K>::type) << 16);
#ifdef __F16C__
  } else if constexpr (K == 4) {
    out = reinterpret_cast<Vector>(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  } else if constexpr (K == 8) {
    out = reinterpret_cast<Vector>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#endif
#ifdef __AVX512F__
  } else if constexpr (K == 16) {
    out = reinterpret_cast<Vector>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#endif
  } else {
    for (int k = 0; k < K; ++k) out[k] = widen(from[k]);
  }
}

// A is the accumulate type of the pixels. The weights are rounded to it.
template <class A>
class Interpolator {
 public:
  Interpolator(const Matrix& m, int64_t H, int64_t W, bool border)
      : H_(H), W_(W), border_(border), m_(m), offset_(4 * W), first_(2 * W), weight_(4 * W) {
    int32_t* o = offset_.data();
    for (int64_t j = 0; j < W; ++j) {
      const double dx = j - (W - 1) / 2.0;
      const Fixed x = sample_offset(m.xx, dx), y = sample_offset(m.yx, dx);
      o[j] = x.whole;
      o[W + j] = x.fraction;
      o[2 * W + j] = y.whole;
      o[3 * W + j] = y.fraction;
    }
  }

  // Computes the positions and weights of output row i, for the calls that follow.
  void row(int64_t i) { border_ ? fill<true>(i) : fill<false>(i); }

  // Interpolates that row of one plane, whose rows are `stride` pixels apart, to W values at out.
  template <class T>
  void apply(const T* source, int64_t stride, A* out) const {
    const int32_t *x0 = first_.data(), *y0 = x0 + W_;
    const A *w00 = weight_.data(), *w01 = w00 + W_, *w10 = w01 + W_, *w11 = w10 + W_;
    // Opposite corners first: a quarter turn or a flip swaps the two sums, and addition commutes exactly.
    int64_t j = 0;
#ifdef __AVX512F__
    if constexpr (sizeof(T) <= 4) {
      if (W_ > 1 && stride * H_ < INT32_MAX) {
        const int64_t below = H_ > 1 ? stride : 0;
        const __m512i step = _mm512_set1_epi32(static_cast<int32_t>(stride));
        for (; j + 16 <= W_; j += 16) {
          const __m512i at =
              _mm512_add_epi32(_mm512_mullo_epi32(_mm512_loadu_si512(y0 + j), step), _mm512_loadu_si512(x0 + j));
          __m512 v00, v01, v10, v11;
          load_pairs(source, at, v00, v01);
          load_pairs(source + below, at, v10, v11);
          const __m512 a =
              _mm512_add_ps(_mm512_mul_ps(v00, _mm512_loadu_ps(w00 + j)), _mm512_mul_ps(v11, _mm512_loadu_ps(w11 + j)));
          const __m512 b =
              _mm512_add_ps(_mm512_mul_ps(v01, _mm512_loadu_ps(w01 + j)), _mm512_mul_ps(v10, _mm512_loadu_ps(w10 + j)));
          _mm512_storeu_ps(out + j, _mm512_add_ps(a, b));
        }
      }
    }
#endif
    const int64_t right = W_ > 1, below = H_ > 1 ? stride : 0;
    for (; j < W_; ++j) {
      const T* p = source + y0[j] * stride + x0[j];
      out[j] = (widen(p[0]) * w00[j] + widen(p[below + right]) * w11[j]) +
               (widen(p[right]) * w01[j] + widen(p[below]) * w10[j]);
    }
  }

  // As above where C channels lie side by side in a pixel, at least two, and pixels are `step` apart: writes (W, C) to
  // out.
  template <class T>
  void apply_pixels(const T* source, int64_t stride, int64_t step, int64_t C, A* out) const {
    constexpr int kWidest = kVectorBytes / static_cast<int>(sizeof(A));
    if constexpr (kWidest >= 16)
      if (C >= 16) return apply_vectors<16>(source, stride, step, C, out);
    if constexpr (kWidest >= 8)
      if (C >= 8) return apply_vectors<8>(source, stride, step, C, out);
    if (C >= 4) apply_vectors<4>(source, stride, step, C, out);
    else if (C == 3) apply_few<3>(source, stride, step, out);
    else apply_few<2>(source, stride, step, out);
  }

  // The transpose: adds each of the W pixels of that row of an output, times its four weights, to the contiguous source
  // pixels that it reads. Pixels have C neighbouring channels.
  void spread(const A* row, int64_t C, A* out) const {
    corners([&](int64_t j, int64_t source, A weight) {
      if (C == 1) {
        out[source] += weight * row[j];
        return;
      }
      A* sums = out + source * C;
      const A* pixel = row + j * C;
#pragma GCC ivdep
      for (int64_t c = 0; c < C; ++c) sums[c] += weight * pixel[c];
    });
  }

  // Calls visit(output column, source index in a contiguous plane, weight) for every corner of that row whose weight is
  // not zero.
  template <class Visit>
  void corners(Visit visit) const {
    const int32_t *x0 = first_.data(), *y0 = x0 + W_;
    const A* w = weight_.data();
    const int64_t step[4] = {0, W_ > 1, H_ > 1 ? W_ : 0, (H_ > 1 ? W_ : 0) + (W_ > 1)};
    for (int64_t j = 0; j < W_; ++j)
      for (int k = 0; k < 4; ++k)
        if (w[k * W_ + j] != 0) visit(j, y0[j] * W_ + x0[j] + step[k], w[k * W_ + j]);
  }

 private:
  // Interpolates channels [c, c + K) of one pixel: p is its first neighbour.
  template <int K, class T>
  static inline void sum_vector(const T* p, int64_t right, int64_t below, A w00, A w01, A w10, A w11, A* out) {
    using V = typename VectorOf<A, K>::type;
    V v00, v01, v10, v11;
    load_vector<K>(p, v00);
    load_vector<K>(p + right, v01);
    load_vector<K>(p + below, v10);
    load_vector<K>(p + (below + right), v11);
    *reinterpret_cast<V*>(out) = (v00 * w00 + v11 * w11) + (v01 * w01 + v10 * w10);
  }

  // Sums K channels at a time, of at least K. The last vector of a pixel moves back to fit.
  template <int K, class T>
  void apply_vectors(const T* source, int64_t stride, int64_t step, int64_t C, A* out) const {
    const int32_t *x0 = first_.data(), *y0 = x0 + W_;
    const A *w00 = weight_.data(), *w01 = w00 + W_, *w10 = w01 + W_, *w11 = w10 + W_;
    const int64_t right = W_ > 1 ? step : 0, below = H_ > 1 ? stride : 0;
    for (int64_t j = 0; j < W_; ++j, out += C) {
      const T* p = source + y0[j] * stride + x0[j] * step;
      for (int64_t k = 0; k < C; k += K) {
        const int64_t c = smaller(k, C - K);
        sum_vector<K>(p + c, right, below, w00[j], w01[j], w10[j], w11[j], out + c);
      }
    }
  }

  // Sums all of up to three channels together. A vector of four reads and writes beyond its pixel, as long as that is
  // within the image and the row of the output, whose next pixels are written later.
  template <int C, class T>
  void apply_few(const T* source, int64_t stride, int64_t step, A* out) const {
    constexpr int K = 4;
    const int32_t *x0 = first_.data(), *y0 = x0 + W_;
    const A *w00 = weight_.data(), *w01 = w00 + W_, *w10 = w01 + W_, *w11 = w10 + W_;
    const int64_t right = W_ > 1 ? step : 0, below = H_ > 1 ? stride : 0;
    const T* last = source + (H_ - 1) * stride + (W_ - 1) * step + (C - K) - below - right;
    const int64_t vectors = W_ - (K - 1) / C;
    int64_t j = 0;
    const auto pixel = [&] {
      const T* p = source + y0[j] * stride + x0[j] * step;
      for (int64_t c = 0; c < C; ++c)
        out[j * C + c] = (widen(p[c]) * w00[j] + widen(p[c + below + right]) * w11[j]) +
                         (widen(p[c + right]) * w01[j] + widen(p[c + below]) * w10[j]);
    };
    for (; j < vectors; ++j) {
      const T* p = source + y0[j] * stride + x0[j] * step;
      if (p > last) pixel();
      else sum_vector<K>(p, right, below, w00[j], w01[j], w10[j], w11[j], out + j * C);
    }
    for (; j < W_; ++j) pixel();
  }

  template <bool kBorder>
  void fill(int64_t i) {
    const double dy = i - (H_ - 1) / 2.0;
    const Fixed x = sample_offset(m_.xy, dy, (W_ - 1) / 2.0), y = sample_offset(m_.yy, dy, (H_ - 1) / 2.0);
    const int32_t H = static_cast<int32_t>(H_), W = static_cast<int32_t>(W_);
    const int32_t *xw = offset_.data(), *xf = xw + W_, *yw = xf + W_, *yf = yw + W_;
    int32_t *x0 = first_.data(), *y0 = x0 + W_;
    A *w00 = weight_.data(), *w01 = w00 + W_, *w10 = w01 + W_, *w11 = w10 + W_;
    constexpr A kStep = A(1) / kOne;
#pragma GCC ivdep
    for (int32_t j = 0; j < W; ++j) {
      const BilinearTap tx = bilinear_tap(x + Fixed{xw[j], xf[j]}, W, kBorder),
                        ty = bilinear_tap(y + Fixed{yw[j], yf[j]}, H, kBorder);
      x0[j] = tx.first;
      y0[j] = ty.first;
      const A nx = static_cast<A>(tx.near) * kStep, fx = static_cast<A>(tx.far) * kStep;
      const A ny = static_cast<A>(ty.near) * kStep, fy = static_cast<A>(ty.far) * kStep;
      w00[j] = ny * nx;
      w01[j] = ny * fx;
      w10[j] = fy * nx;
      w11[j] = fy * fx;
    }
  }

  int64_t H_, W_;
  bool border_;
  Matrix m_;
  Buffer<int32_t> offset_;  // (4, W): what a column adds to positions; whole and fraction along x, then along y
  Buffer<int32_t> first_;   // (2, W): the first neighbour along x, then along y
  Buffer<A> weight_;        // (4, W): w00, w01, w10, w11
};

}  // namespace
}  // namespace equifast::cpu
