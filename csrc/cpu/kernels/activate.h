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

// p / q for q in [1, 100], within 2 units in the last place. A division would take longer than all else in erf.
inline Vector quotient(Vector p, Vector q) {
#if defined(__AVX512F__)
  const Vector r = _mm512_rcp14_ps(q);
  return p * (r * (2.0f - q * r));
#else
  return p / q;
#endif
}

// erf by a rational function of x² on [−4, 4]: a minimax fit of our own, within 5e-7.
inline Vector error_function(Vector x) {
  x = x < -4.0f ? Vector{} - 4.0f : x;
  x = x > 4.0f ? Vector{} + 4.0f : x;
  const Vector t = x * x;
  Vector p = t * 1.986765710e-06f + 2.845618874e-04f;
  p = p * t + 3.883265425e-03f;
  p = p * t + 5.310149863e-02f;
  p = p * t + 1.935435683e-01f;
  p = p * t + 1.128379107e+00f;
  Vector q = t * 3.741978799e-05f + 1.185547793e-03f;
  q = q * t + 1.520709693e-02f;
  q = q * t + 1.153493375e-01f;
  q = q * t + 5.048560500e-01f;
  q = q * t + 1.0f;
  return quotient(x * p, q);
}

// Applies the activation in place to n vectors.
void activate(Activation activation, Vector* row, int64_t n) {
  switch (activation) {
    case Activation::none: return;
    case Activation::relu:
      for (int64_t j = 0; j < n; ++j) row[j] = row[j] < 0.0f ? Vector{} : row[j];
      return;
    case Activation::gelu:
      for (int64_t j = 0; j < n; ++j) row[j] = 0.5f * row[j] * (1.0f + error_function(row[j] * 0.70710678f));
      return;
    case Activation::silu:
      for (int64_t j = 0; j < n; ++j) row[j] = row[j] / (1.0f + exponential(-row[j]));
      return;
  }
}

}  // namespace
}  // namespace equifast::cpu
