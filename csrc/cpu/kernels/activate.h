// Activations of vectors of channels.
#pragma once

#include "cpu/kernels/channel_block.h"

namespace equifast::cpu {
namespace {

// exp by a polynomial on [−½·ln 2, ½·ln 2] and a power of two.
inline Vector exponential(Vector x) {
  constexpr float kLog2e = 1.44269504f, kHigh = 0.693359375f, kLow = -2.12194440e-4f, kRound = 12582912.0f;
  x = x < -87.0f ? Vector{} - 87.0f : x;
  x = x > 88.0f ? Vector{} + 88.0f : x;
  const Vector shifted = x * kLog2e + kRound, n = shifted - kRound;
  const Vector r = (x - n * kHigh) - n * kLow;
  Vector p = r * (1 / 5040.f) + (1 / 720.f);
  p = p * r + (1 / 120.f);
  p = p * r + (1 / 24.f);
  p = p * r + (1 / 6.f);
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const Bits scale = (__builtin_convertvector(n, Bits) + 127) << 23;
  return p * reinterpret_cast<const Vector&>(scale);
}

// p / q for q in [1, 100], within 2 units in the last place. A division would take longer than all else in GELU.
inline Vector quotient(Vector p, Vector q) {
#if defined(__AVX512F__)
  const Vector r = _mm512_rcp14_ps(q);
  return p * (r * (2.0f - q * r));
#else
  return p / q;
#endif
}

// How many vectors GELU is computed for at a time, in the registers that there are.
#if defined(__AVX512F__)
constexpr int kSideBySide = 4;
#else
constexpr int kSideBySide = 1;
#endif

// x within [−bound, bound], and NaN as it is.
inline Vector clamped(Vector x, float bound) {
#if defined(__AVX512F__)
  // GCC would compare and then move under a mask. Of two operands, these return the second one where either is NaN.
  return _mm512_max_ps(_mm512_set1_ps(-bound), _mm512_min_ps(_mm512_set1_ps(bound), x));
#else
  x = x < -bound ? Vector{} - bound : x;
  return x > bound ? Vector{} + bound : x;
#endif
}

// x·Φ(x), where Φ(x) − ½ = ½·erf(x/√2) is x times a rational function of x² on [−4·√2, 4·√2]: a minimax fit of our own,
// within 3e-7. It is computed in place for N vectors side by side: of a single one, each step waits for the one before.
template <int N>
inline void gelu(Vector* x) {
  constexpr float kP[] = {2.195086729e-08f, 6.287988757e-06f, 1.716177072e-04f,
                          4.693553722e-03f, 3.421399239e-02f, 3.989422590e-01f};
  constexpr float kQ[] = {1.169368375e-06f, 7.409673708e-05f, 1.900887117e-03f,
                          2.883733436e-02f, 2.524280250e-01f, 1.0f};
  Vector u[N], t[N], p[N], q[N];
#pragma GCC unroll 4
  for (int l = 0; l < N; ++l) {
    u[l] = clamped(x[l], 5.65685425f);
    t[l] = u[l] * u[l];
    p[l] = t[l] * kP[0] + kP[1];
    q[l] = t[l] * kQ[0] + kQ[1];
  }
#pragma GCC unroll 4
  for (int k = 2; k < 6; ++k)
#pragma GCC unroll 4
    for (int l = 0; l < N; ++l) {
      p[l] = p[l] * t[l] + kP[k];
      q[l] = q[l] * t[l] + kQ[k];
    }
#pragma GCC unroll 4
  for (int l = 0; l < N; ++l) x[l] *= quotient(u[l] * p[l], q[l]) + 0.5f;
}

// Applies the activation in place to n vectors.
void activate(Activation activation, Vector* row, int64_t n) {
  switch (activation) {
    case Activation::none: return;
    case Activation::relu:
      for (int64_t j = 0; j < n; ++j) row[j] = row[j] < 0.0f ? Vector{} : row[j];
      return;
    case Activation::gelu:
      for (; n >= kSideBySide; n -= kSideBySide, row += kSideBySide) gelu<kSideBySide>(row);
      for (int64_t j = 0; j < n; ++j) gelu<1>(row + j);
      return;
    case Activation::silu:
      for (int64_t j = 0; j < n; ++j) row[j] = row[j] / (1.0f + exponential(-row[j]));
      return;
  }
}

}  // namespace
}  // namespace equifast::cpu
