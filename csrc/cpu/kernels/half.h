// Conversions of half precision for an x86 CPU without F16C, bit for bit those of F16C. There the compiler would call
// functions that only libgcc of GCC 12 or newer has. The results do not depend on how the CPU treats subnormal numbers
// (torch.set_flush_denormal).
#pragma once

#include <cstdint>
#include <cstring>

namespace equifast::cpu {
namespace {

inline uint32_t bits_of(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// The value of a half. The bias of the exponent is 15 in a half and 127 in a float; the fraction has 10 and 23 bits.
inline float float_of_half(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7FFFu;
  const uint32_t normal = (magnitude << 13) + ((127 - 15) << 23);
  const uint32_t subnormal = bits_of(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t quiet = magnitude > 0x7C00 ? 0x400000 : 0;
  const uint32_t infinity_or_nan = (magnitude << 13) | 0x7F800000 | quiet;
  return float_of(sign | (magnitude < 0x400 ? subnormal : magnitude < 0x7C00 ? normal : infinity_or_nan));
}

// The nearest half; of two that are equally near, the even one.
inline uint16_t half_of_float(float v) {
  const uint32_t bits = bits_of(v);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  // A carry out of the fraction goes into the exponent, up to infinity.
  const uint32_t normal = (magnitude - ((127 - 15) << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
  // Floats just above 0.5 are 2⁻²⁴ apart, as subnormal halves are: so this addition rounds as it should.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const uint32_t nan = 0x7E00 | ((magnitude >> 13) & 0x3FF);
  const uint32_t finite = magnitude < 0x38800000 ? subnormal : magnitude < 0x47800000 ? normal : 0x7C00;
  return static_cast<uint16_t>(((bits >> 16) & 0x8000) | (magnitude > 0x7F800000 ? nan : finite));
}

}  // namespace
}  // namespace equifast::cpu
