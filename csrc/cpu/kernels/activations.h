// The activations and their derivatives for one value. Loops over these functions are vectorised by the compiler.
//
// float32 is computed by polynomials, within a few roundings of the exact value. float64 is computed by the C library.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "cpu/kernels/kernels.h"

// Without it GCC calls the longer of these functions, and then vectorises no loop over them.
#define EQUIFAST_INLINE [[gnu::always_inline]] inline

namespace equifast::cpu {
namespace {

// e^x for x in [−87, 0]; e^(−87) below. x = n·ln 2 + r, and e^r is a polynomial on [−½·ln 2, ½·ln 2], a minimax fit of
// our own.
EQUIFAST_INLINE float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  constexpr float kLog2e = 1.44269504f, kHigh = 0.693359375f, kLow = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5·2²³: added to a small number, it leaves the nearest integer in the bits
  const float shifted = x * kLog2e + kRound, n = shifted - kRound;
  const float r = (x - n * kHigh) - n * kLow;
  float p = r * 1.392961691e-03f + 8.359886114e-03f;
  p = p * r + 4.166650334e-02f;
  p = p * r + 1.666659821e-01f;
  p = p * r + 5.000000009e-01f;
  p = p * (r * r) + r + 1.0f;
  const uint32_t power = (std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000u;  // 2ⁿ
  return p * std::bit_cast<float>(power);
}
EQUIFAST_INLINE double exponential(double x) { return std::exp(x); }

// Φ(u), the integral of the normal density from −∞ to u. Φ(−z) = e^(−z²/2)·h(z) for z in [0, 12], where h is a rational
// function of positive coefficients, a minimax fit of our own. So it has few wrong bits even where it is tiny. Beyond
// 12 the product of Φ(−z) and z is below 10⁻³¹.
EQUIFAST_INLINE float normal_integral(float u) {
  float z = std::fabs(u);
  z = z > 12.0f ? 12.0f : z;
  float p = z * 3.949434455e-03f + 3.950292453e-02f;
  p = p * z + 1.798706786e-01f;
  p = p * z + 4.337325033e-01f;
  p = p * z + 0.5f;
  float q = z * 9.899601080e-03f + 9.902729000e-02f;
  q = q * z + 4.605908484e-01f;
  q = q * z + 1.188494623e+00f;
  q = q * z + 1.665349884e+00f;
  q = q * z + 1.0f;
  const float tail = exponential(-0.5f * (z * z)) * (p / q);
  return u > 0 ? 1.0f - tail : tail;
}
EQUIFAST_INLINE double normal_integral(double u) { return 0.5 * std::erfc(-u * 0.70710678118654752440); }

// The derivative of u·Φ(u): one half and an odd function of u, which is u times a rational function of u² on [−6, 6], a
// minimax fit of our own, within 3e-7.
EQUIFAST_INLINE float gelu_slope(float u) {
  u = u < -6.0f ? -6.0f : u;
  u = u > 6.0f ? 6.0f : u;
  const float t = u * u;
  float p = t * 1.908849026e-07f + 3.585056876e-05f;
  p = p * t + 2.418488442e-05f;
  p = p * t + 1.420917171e-02f;
  p = p * t - 3.074341314e-02f;
  p = p * t + 7.978845328e-01f;
  float q = t * 8.887471967e-06f + 1.935201121e-04f;
  q = q * t + 3.528763802e-03f;
  q = q * t + 4.106470996e-02f;
  q = q * t + 2.948057300e-01f;
  q = q * t + 1.0f;
  return u * (p / q) + 0.5f;
}
EQUIFAST_INLINE double gelu_slope(double u) {
  return normal_integral(u) + u * (std::exp(-0.5 * u * u) * 0.39894228040143267794);
}

// The sigmoid s of u and the one of −u, which is 1 − s, both without cancellation.
template <class A>
struct Sigmoids {
  A of, of_negative;
};
template <class A>
EQUIFAST_INLINE Sigmoids<A> sigmoids(A u) {
  const A e = exponential(-std::fabs(u)), larger = A(1) / (A(1) + e), smaller = e * larger;
  return {u > 0 ? larger : smaller, u > 0 ? smaller : larger};
}

// GELU's approximation u·(1 + tanh z)/2, with z = √(2/π)·(u + 0.044715·u³), is u times the sigmoid of 2z.
constexpr double kGeluScale = 1.59576912160573071176, kGeluCube = 0.044715;  // 2·√(2/π)
template <class A>
EQUIFAST_INLINE Sigmoids<A> gelu_sigmoids(A u) {
  return sigmoids(A(kGeluScale) * u * (A(1) + A(kGeluCube) * (u * u)));
}
// Beyond 12 the derivative of the approximation is 0 or 1 to the last bit.
template <class A>
EQUIFAST_INLINE A gelu_tanh_slope(A u) {
  u = u < A(-12) ? A(-12) : u;
  u = u > A(12) ? A(12) : u;
  const Sigmoids<A> s = gelu_sigmoids(u);
  const A steepness = A(kGeluScale) * (A(1) + A(3 * kGeluCube) * (u * u));
  return s.of + u * steepness * s.of * s.of_negative;
}

// σ(u)
template <NormActivation kActivation, class A>
EQUIFAST_INLINE A activated(A u) {
  if constexpr (kActivation == NormActivation::relu) return u < 0 ? A(0) : u;
  if constexpr (kActivation == NormActivation::gelu) return u * normal_integral(u);
  if constexpr (kActivation == NormActivation::gelu_tanh) return u * gelu_sigmoids(u).of;
  if constexpr (kActivation == NormActivation::silu) return u * sigmoids(u).of;
  return u;
}

// σ'(u)
template <NormActivation kActivation, class A>
EQUIFAST_INLINE A slope(A u) {
  if constexpr (kActivation == NormActivation::relu) return u <= 0 ? A(0) : A(1);
  if constexpr (kActivation == NormActivation::gelu) return gelu_slope(u);
  if constexpr (kActivation == NormActivation::gelu_tanh) return gelu_tanh_slope(u);
  if constexpr (kActivation == NormActivation::silu) {
    const Sigmoids<A> s = sigmoids(u);
    return s.of * (A(1) + u * s.of_negative);
  }
  return A(1);
}

#undef EQUIFAST_INLINE

// Calls f.operator()<activation>() for the activation of a call.
template <class F>
void visit_activation(NormActivation activation, F f) {
  switch (activation) {
    case NormActivation::none: return f.template operator()<NormActivation::none>();
    case NormActivation::relu: return f.template operator()<NormActivation::relu>();
    case NormActivation::gelu: return f.template operator()<NormActivation::gelu>();
    case NormActivation::gelu_tanh: return f.template operator()<NormActivation::gelu_tanh>();
    case NormActivation::silu: return f.template operator()<NormActivation::silu>();
  }
}

}  // namespace
}  // namespace equifast::cpu
