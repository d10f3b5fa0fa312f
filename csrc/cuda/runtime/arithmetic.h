// Integer arithmetic of host code and of kernels.
#pragma once

#include <cstdint>

#include "geometry.h"

namespace equifast::cuda {

template <class T>
EQUIFAST_HD inline T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

// Divides by a number that is known before the launch, as a multiplication and a shift: n / divisor for 0 ≤ n < 2³¹.
struct Divider {
  uint32_t divisor = 1, factor = 0, shift = 0;

  Divider() = default;
  explicit Divider(int64_t d) : divisor(static_cast<uint32_t>(d)) {
    while ((uint64_t(1) << shift) < divisor) ++shift;
    factor = static_cast<uint32_t>((((uint64_t(1) << shift) - divisor) << 32) / divisor + 1);
  }
  EQUIFAST_HD int32_t divide(int32_t n) const {
    const auto high = static_cast<uint32_t>(uint64_t(n) * factor >> 32);  // less than n, so the sum fits
    return static_cast<int32_t>((high + static_cast<uint32_t>(n)) >> shift);
  }
  // Replaces n by the quotient and returns the remainder: the last index of a flattened one, which loses it.
  EQUIFAST_HD int32_t split(int32_t& n) const {
    const int32_t quotient = divide(n), remainder = n - quotient * static_cast<int32_t>(divisor);
    n = quotient;
    return remainder;
  }
};

}  // namespace equifast::cuda
