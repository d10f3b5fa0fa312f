// Sums over the vectors of one sample's orbit.
#pragma once

#include <cmath>
#include <limits>

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/pixels.h"

namespace equifast::cpu {
namespace {

// ⟨u, v⟩ of n values, in sixteen sums that no addition waits for: the order is the same for every instruction set.
template <class A>
inline A dot(const A* u, const A* v, int64_t n) {
  A lanes[16] = {};
  int64_t j = 0;
  for (; j + 16 <= n; j += 16)
    for (int64_t l = 0; l < 16; ++l) lanes[l] += u[j + l] * v[j + l];
  A sum = 0;
  for (; j < n; ++j) sum += u[j] * v[j];
  for (int64_t l = 0; l < 16; ++l) sum += lanes[l];
  return sum;
}

// The length of a vector, but no less than `floor`.
template <class A>
inline A norm(const A* v, int64_t n, A floor) {
  const A length = std::sqrt(dot(v, v, n));
  return length > floor ? length : floor;
}

// factor·x, but 0 for a factor of 0 even if x is ∞ or NaN.
template <class A>
inline A times(A factor, A x) {
  return factor != 0 ? factor * x : A(0);
}

// The vectors of sample b, (E, d) in the accumulate type, from those of all samples, (E, B, d).
template <class T>
inline void load_orbit(const void* vectors, int64_t E, int64_t B, int64_t d, int64_t b, Acc<T>* out) {
  for (int64_t e = 0; e < E; ++e) widen_row(static_cast<const T*>(vectors) + (e * B + b) * d, out + e * d, d);
}

}  // namespace
}  // namespace equifast::cpu
