// Instructions that compute numbers, as the manual of PTX ISA 9.0 defines them. Where it allows an error (.approx), the
// exact result is rounded once.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "rows.h"

namespace equifast::ptx {
namespace {

template <class To, class From>
To cast_bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

// `F`, whose result has the bits that a GPU gives to it where it is a NaN. Those of float64 may be others on a GPU, but
// they are always the same here, as lanes may hold copies of a result.
template <auto F>
constexpr auto number = [](auto... a) {
  using T = decltype(F(a...));
  const T result = F(a...);
  if (result == result) return result;
  if constexpr (sizeof(T) == 4) return cast_bits<T>(UINT32_C(0x7FFFFFFF));
  else return cast_bits<T>(UINT64_C(0x7FFFFFFFFFFFFFFF));
};

constexpr auto add = [](auto a, auto b) { return a + b; };
constexpr auto subtract = [](auto a, auto b) { return a - b; };
constexpr auto multiply = [](auto a, auto b) { return a * b; };
constexpr auto multiply_wide = [](auto a, auto b) {
  return static_cast<std::conditional_t<std::is_signed_v<decltype(a)>, int64_t, uint64_t>>(a) * b;
};
constexpr auto multiply_high = [](auto a, auto b) {
  return static_cast<decltype(a)>(multiply_wide(a, b) >> 8 * sizeof a);
};
constexpr auto multiply_add = [](auto a, auto b, auto c) { return a * b + c; };
constexpr auto multiply_add_wide = [](auto a, auto b, auto c) { return static_cast<decltype(c)>(a) * b + c; };
constexpr auto bit_and = [](auto a, auto b) { return a & b; };
constexpr auto bit_or = [](auto a, auto b) { return a | b; };
constexpr auto bit_xor = [](auto a, auto b) { return a ^ b; };
constexpr auto bit_not = [](auto a) { return ~a; };
constexpr auto negative = [](auto a) { return -a; };
constexpr auto least = [](auto a, auto b) { return b < a ? b : a; };
constexpr auto largest = [](auto a, auto b) { return a < b ? b : a; };
constexpr auto absolute = [](auto a) {  // of the least integer: itself
  using U = std::make_unsigned_t<decltype(a)>;
  return a < 0 ? U(0) - static_cast<U>(a) : static_cast<U>(a);
};
constexpr auto same = [](auto a) { return a; };

// A shift by more than all bits is one by all of them.
constexpr auto left = [](auto a, uint32_t n) { return n < 8 * sizeof a ? a << n : 0; };
constexpr auto right = [](auto a, uint32_t n) {
  constexpr uint32_t kBits = 8 * sizeof a;
  return n < kBits ? a >> n : a < 0 ? decltype(a)(-1) : decltype(a)(0);
};

// The upper word of b above a, shifted left by n bits.
constexpr auto funnel_left = [](uint32_t a, uint32_t b, uint32_t n) {
  return static_cast<uint32_t>((a | uint64_t(b) << 32) << (n & 31) >> 32);
};

// `count` bits of a in the place of those of b from `first` on.
constexpr auto insert = [](uint32_t a, uint32_t b, uint32_t first, uint32_t count) {
  const uint64_t bits = (UINT64_C(1) << std::min(count & 255, 32u)) - 1;
  const uint32_t from = std::min(first & 255, 32u);
  const auto mask = static_cast<uint32_t>(bits << from);
  return (b & ~mask) | (static_cast<uint32_t>(uint64_t(a) << from) & mask);
};

// `count` bits of a from `first` on; of a signed type, with the last of them, or that of a, above.
template <class T>
constexpr auto extract = [](T a, uint32_t first, uint32_t count) -> T {
  first &= 255;
  count &= 255;
  if (count == 0) return 0;
  const int64_t wide = a;  // with as many bits above as are asked for
  const uint32_t from = std::min(first, 63u), left = 64 - std::min(count, 64 - from);
  if (std::is_signed_v<T>)
    return static_cast<T>(static_cast<int64_t>(static_cast<uint64_t>(wide >> from) << left) >> left);
  return static_cast<T>(static_cast<uint64_t>(wide >> from) << left >> left);
};

// The bytes of a and, above them, of b that the four lowest nibbles of `chosen` name. The highest bit of a nibble asks
// for eight times the sign of that byte.
constexpr auto permute = [](uint32_t a, uint32_t b, uint32_t chosen) {
  const uint64_t bytes = a | uint64_t(b) << 32;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = chosen >> 4 * i;
    const auto byte = static_cast<uint8_t>(bytes >> 8 * (nibble & 7));
    out |= static_cast<uint32_t>(nibble & 8 ? (byte >> 7) * 0xFF : byte) << 8 * i;
  }
  return out;
};

constexpr auto fma = [](auto a, auto b, auto c) { return std::fma(a, b, c); };

// a·b + c, rounded down. The product is exact in float64; `sum` and `rest` are its exact sum with c, so they tell
// whether the nearest float lies above it.
constexpr auto fma_down = [](float a, float b, float c) {
  const float nearest = std::fma(a, b, c);
  const double product = double(a) * b, sum = product + c;
  const double other = sum - product, rest = (product - (sum - other)) + (c - other);
  if (nearest > sum || (nearest == sum && rest < 0)) return std::nextafter(nearest, -INFINITY);
  const bool cancels = sum == 0 && rest == 0 && std::signbit(product) != std::signbit(c);
  return cancels ? -0.0f : nearest;
};

constexpr auto float_max = [](auto a, auto b) {  // a NaN is left out, and +0 is more than −0
  if (a == b) return std::signbit(a) ? b : a;
  return a > b || b != b ? a : b;
};

constexpr auto float_min = [](auto a, auto b) {  // likewise, and −0 is less than +0
  if (a == b) return std::signbit(a) ? a : b;
  return a < b || b != b ? a : b;
};

constexpr auto with_sign = [](auto sign, auto magnitude) { return std::copysign(magnitude, sign); };
constexpr auto halves_absolute = [](uint32_t a) { return a & 0x7FFF7FFF; };
constexpr auto half_absolute = [](uint16_t a) { return a & 0x7FFF; };
constexpr auto float_absolute = [](auto a) { return std::fabs(a); };
constexpr auto quotient = [](auto a, auto b) { return a / b; };
constexpr auto root = [](auto a) { return std::sqrt(a); };
constexpr auto reciprocal = [](auto a) { return 1 / a; };

template <class T>
T flushed(T a) {
  return std::fabs(a) < std::numeric_limits<T>::min() ? std::copysign(T(0), a) : a;
}
// `F` of operands, with those and the result flushed to zero where they are subnormal.
template <auto F>
constexpr auto flushing = [](auto... a) { return flushed(F(flushed(a)...)); };
// Within 2^-22 of it on a GPU.
constexpr auto power_of_two = [](float a) { return static_cast<float>(std::exp2(double(a))); };
// A GPU reads the upper 32 bits, and writes them: 20 bits of the mantissa.
constexpr auto rough_reciprocal = [](double a) {
  constexpr uint64_t kUpper = ~UINT64_C(0) << 32;
  const double read = flushed(cast_bits<double>(cast_bits<uint64_t>(a) & kUpper));
  return cast_bits<double>(cast_bits<uint64_t>(flushed(1 / read)) & kUpper);
};

constexpr auto down = [](auto a) { return std::floor(a); };
constexpr auto up = [](auto a) { return std::ceil(a); };
constexpr auto nearest = [](auto a) { return std::nearbyint(a); };
constexpr auto saturated = [](float a) { return a > 0 ? std::min(a, 1.0f) : 0.0f; };

// Towards zero, and to the nearest that there is.
template <class To>
constexpr auto truncated = []<class From>(From a) {
  using Limits = std::numeric_limits<To>;
  if (a != a) return sizeof(From) == 4 && sizeof(To) == 4 ? To(0) : Limits::min();
  if (a >= -static_cast<From>(Limits::min())) return Limits::max();
  return a < static_cast<From>(Limits::min()) ? Limits::min() : static_cast<To>(a);
};

constexpr auto to_half = [](float a) -> uint16_t {
  return a != a ? 0x7FFF : cast_bits<uint16_t>(static_cast<_Float16>(a));
};
constexpr auto from_half = [](uint16_t a) { return static_cast<float>(cast_bits<_Float16>(a)); };
constexpr auto to_bfloat16 = [](float a) -> uint16_t {
  const auto bits = cast_bits<uint32_t>(a);
  return static_cast<uint16_t>(a != a ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
};
// Ties go away from zero.
constexpr auto from_bfloat16 = [](uint16_t a) { return cast_bits<float>(uint32_t(a) << 16); };
// Of two numbers, the first above the second.
template <auto TO>
constexpr auto both = [](float high, float low) { return TO(low) | uint32_t(TO(high)) << 16; };
constexpr auto to_tf32 = [](float a) { return a != a ? 0x7FFFFFFF : (cast_bits<uint32_t>(a) + 0x1000) & 0xFFFFE000; };

// Quotients and remainders of integers. By zero they are undefined.
template <class T, bool REMAINDER>
void divide(Warp& warp, const int32_t* o, Mask active) {
  const T *a = warp.row<T>(o[1]), *b = warp.row<T>(o[2]);
  T* out = warp.row<T>(o[0]);
  for (int i = 0; i < kLanes; ++i) {
    if (!(active >> i & 1)) continue;
    if (b[i] == 0) warp.fault(i, "divides by zero");
    if (std::is_signed_v<T> && b[i] == T(-1))  // whose quotient may not be representable
      out[i] = REMAINDER ? 0 : static_cast<T>(0 - static_cast<uint64_t>(a[i]));
    else out[i] = REMAINDER ? a[i] % b[i] : a[i] / b[i];
  }
}

using u32 = uint32_t;
using u64 = uint64_t;
using s32 = int32_t;
using s64 = int64_t;

constexpr Instruction kInstructions[] = {
    {"add.s16", "h,h,h", binary<add, uint16_t>},
    {"add.s32", "w,w,w", binary<add, u32>},
    {"add.s64", "d,d,d", binary<add, u64>},
    {"sub.s16", "h,h,h", binary<subtract, uint16_t>},
    {"sub.s32", "w,w,w", binary<subtract, u32>},
    {"sub.s64", "d,d,d", binary<subtract, u64>},
    {"mul.lo.s16", "h,h,h", binary<multiply, uint16_t>},
    {"mul.lo.s32", "w,w,w", binary<multiply, u32>},
    {"mul.lo.s64", "d,d,d", binary<multiply, u64>},
    {"mul.hi.u16", "h,h,h", binary<multiply_high, uint16_t>},
    {"mul.hi.s32", "w,w,w", binary<multiply_high, s32>},
    {"mul.hi.u32", "w,w,w", binary<multiply_high, u32>},
    {"mul.wide.u16", "w,h,h", map<multiply_wide, u32, uint16_t, uint16_t>},
    {"mul.wide.s32", "d,w,w", map<multiply_wide, s64, s32, s32>},
    {"mul.wide.u32", "d,w,w", map<multiply_wide, u64, u32, u32>},
    {"mad.lo.s16", "h,h,h,h", ternary<multiply_add, uint16_t>},
    {"mad.lo.s32", "w,w,w,w", ternary<multiply_add, u32>},
    {"mad.lo.s64", "d,d,d,d", ternary<multiply_add, u64>},
    {"mad.wide.u16", "w,h,h,w", map<multiply_add_wide, u32, uint16_t, uint16_t, u32>},
    {"mad.wide.s32", "d,w,w,d", map<multiply_add_wide, s64, s32, s32, s64>},
    {"mad.wide.u32", "d,w,w,d", map<multiply_add_wide, u64, u32, u32, u64>},
    {"div.s32", "w,w,w", divide<s32, false>},
    {"div.u32", "w,w,w", divide<u32, false>},
    {"div.s64", "d,d,d", divide<s64, false>},
    {"div.u64", "d,d,d", divide<u64, false>},
    {"rem.s32", "w,w,w", divide<s32, true>},
    {"rem.u32", "w,w,w", divide<u32, true>},
    {"rem.s64", "d,d,d", divide<s64, true>},
    {"abs.s32", "w,w", unary<absolute, s32>},
    {"abs.s64", "d,d", unary<absolute, s64>},
    {"neg.s32", "w,w", unary<negative, u32>},
    {"neg.s64", "d,d", unary<negative, u64>},
    {"min.s32", "w,w,w", binary<least, s32>},
    {"min.u32", "w,w,w", binary<least, u32>},
    {"min.s64", "d,d,d", binary<least, s64>},
    {"max.s32", "w,w,w", binary<largest, s32>},
    {"max.u32", "w,w,w", binary<largest, u32>},
    {"max.s64", "d,d,d", binary<largest, s64>},
    {"and.b16", "h,h,h", binary<bit_and, uint16_t>},
    {"or.b16", "h,h,h", binary<bit_or, uint16_t>},
    {"and.b32", "w,w,w", binary<bit_and, u32>},
    {"and.b64", "d,d,d", binary<bit_and, u64>},
    {"or.b32", "w,w,w", binary<bit_or, u32>},
    {"or.b64", "d,d,d", binary<bit_or, u64>},
    {"xor.b32", "w,w,w", binary<bit_xor, u32>},
    {"not.b32", "w,w", unary<bit_not, u32>},
    {"not.b64", "d,d", unary<bit_not, u64>},
    {"shl.b16", "h,h,w", map<left, uint16_t, uint16_t, u32>},
    {"shl.b32", "w,w,w", binary<left, u32>},
    {"shl.b64", "d,d,w", map<left, u64, u64, u32>},
    {"shr.u16", "h,h,w", map<right, uint16_t, uint16_t, u32>},
    {"shr.s32", "w,w,w", map<right, s32, s32, u32>},
    {"shr.u32", "w,w,w", map<right, u32, u32, u32>},
    {"shr.s64", "d,d,w", map<right, s64, s64, u32>},
    {"shr.u64", "d,d,w", map<right, u64, u64, u32>},
    {"bfi.b32", "w,w,w,w,w", map<insert, u32, u32, u32, u32, u32>},
    {"shf.l.wrap.b32", "w,w,w,w", ternary<funnel_left, u32>},
    {"bfe.s32", "w,w,w,w", map<extract<s32>, s32, s32, u32, u32>},
    {"bfe.u32", "w,w,w,w", map<extract<u32>, u32, u32, u32, u32>},
    {"prmt.b32", "w,w,w,w", ternary<permute, u32>},
    {"add.rn.f32", "w,w,w", binary<number<add>, float>},
    {"add.rn.f64", "d,d,d", binary<number<add>, double>},
    {"add.f32", "w,w,w", binary<number<add>, float>},
    {"add.f64", "d,d,d", binary<number<add>, double>},
    {"sub.rn.f32", "w,w,w", binary<number<subtract>, float>},
    {"sub.rn.f64", "d,d,d", binary<number<subtract>, double>},
    {"sub.f32", "w,w,w", binary<number<subtract>, float>},
    {"sub.f64", "d,d,d", binary<number<subtract>, double>},
    {"mul.rn.f32", "w,w,w", binary<number<multiply>, float>},
    {"mul.rn.f64", "d,d,d", binary<number<multiply>, double>},
    {"mul.f32", "w,w,w", binary<number<multiply>, float>},
    {"mul.f64", "d,d,d", binary<number<multiply>, double>},
    {"fma.rn.f32", "w,w,w,w", ternary<number<fma>, float>},
    {"fma.rn.f64", "d,d,d,d", ternary<number<fma>, double>},
    {"fma.rn.ftz.f32", "w,w,w,w", ternary<number<flushing<fma>>, float>},
    {"fma.rm.f32", "w,w,w,w", ternary<number<fma_down>, float>},
    {"div.rn.f32", "w,w,w", binary<number<quotient>, float>},
    {"div.rn.f64", "d,d,d", binary<number<quotient>, double>},
    {"div.full.f32", "w,w,w", binary<number<quotient>, float>},
    {"rcp.rn.f32", "w,w", unary<number<reciprocal>, float>},
    {"rcp.rn.f64", "d,d", unary<number<reciprocal>, double>},
    {"rcp.approx.ftz.f64", "d,d", unary<rough_reciprocal, double>},
    {"sqrt.rn.f32", "w,w", unary<number<root>, float>},
    {"sqrt.rn.f64", "d,d", unary<number<root>, double>},
    {"sqrt.approx.ftz.f32", "w,w", unary<number<flushing<root>>, float>},
    {"ex2.approx.f32", "w,w", unary<number<power_of_two>, float>},
    {"ex2.approx.ftz.f32", "w,w", unary<number<flushing<power_of_two>>, float>},
    {"abs.f16", "h,h", unary<half_absolute, uint16_t>},
    {"abs.f16x2", "w,w", unary<halves_absolute, u32>},
    {"abs.f32", "w,w", unary<float_absolute, float>},
    {"abs.f64", "d,d", unary<float_absolute, double>},
    {"abs.ftz.f32", "w,w", unary<flushing<float_absolute>, float>},
    {"neg.f32", "w,w", unary<negative, float>},
    {"neg.f64", "d,d", unary<negative, double>},
    {"max.f32", "w,w,w", binary<number<float_max>, float>},
    {"max.f64", "d,d,d", binary<number<float_max>, double>},
    {"min.f32", "w,w,w", binary<number<float_min>, float>},
    {"min.f64", "d,d,d", binary<number<float_min>, double>},
    {"copysign.f32", "w,w,w", binary<with_sign, float>},
    {"copysign.f64", "d,d,d", binary<with_sign, double>},
    {"cvt.s16.s8", "h,h", map<same, int16_t, Low<int8_t>>},
    {"cvt.s32.s16", "w,h", map<same, s32, int16_t>},
    {"cvt.u32.u16", "w,h", map<same, u32, uint16_t>},
    {"cvt.u16.u32", "h,w", map<same, uint16_t, u32>},
    {"cvt.u16.u64", "h,d", map<same, uint16_t, u64>},
    {"cvt.u32.u64", "w,d", map<same, u32, u64>},
    {"cvt.u64.u16", "d,h", map<same, u64, uint16_t>},
    {"cvt.u64.u32", "d,w", map<same, u64, u32>},
    {"cvt.s64.s32", "d,w", map<same, s64, s32>},
    {"cvt.s64.s32", "d,d", map<same, s64, Low<s32>>},
    {"cvt.rn.f32.s32", "w,w", map<same, float, s32>},
    {"cvt.rn.f32.u32", "w,w", map<same, float, u32>},
    {"cvt.rn.f32.s64", "w,d", map<same, float, s64>},
    {"cvt.rn.f64.s32", "d,w", map<same, double, s32>},
    {"cvt.rn.f64.u32", "d,w", map<same, double, u32>},
    {"cvt.rn.f64.s64", "d,d", map<same, double, s64>},
    {"cvt.rn.f32.f64", "w,d", map<same, float, double>},
    {"cvt.f64.f32", "d,w", map<same, double, float>},
    {"cvt.rzi.s32.f32", "w,w", map<truncated<s32>, s32, float>},
    {"cvt.rzi.s32.f64", "w,d", map<truncated<s32>, s32, double>},
    {"cvt.rzi.s64.f64", "d,d", map<truncated<s64>, s64, double>},
    {"cvt.rmi.f32.f32", "w,w", unary<down, float>},
    {"cvt.rmi.ftz.f32.f32", "w,w", unary<flushing<down>, float>},
    {"cvt.rmi.f64.f64", "d,d", unary<down, double>},
    {"cvt.rpi.f32.f32", "w,w", unary<up, float>},
    {"cvt.rpi.ftz.f32.f32", "w,w", unary<flushing<up>, float>},
    {"cvt.rni.f32.f32", "w,w", unary<nearest, float>},
    {"cvt.rni.f64.f64", "d,d", unary<nearest, double>},
    {"cvt.sat.f32.f32", "w,w", unary<saturated, float>},
    {"cvt.f32.f16", "w,h", map<from_half, float, uint16_t>},
    {"cvt.f32.bf16", "w,h", map<from_bfloat16, float, uint16_t>},
    {"cvt.rn.f16.f32", "h,w", map<to_half, uint16_t, float>},
    {"cvt.rn.bf16.f32", "h,w", map<to_bfloat16, uint16_t, float>},
    {"cvt.rn.f16x2.f32", "w,w,w", map<both<to_half>, u32, float, float>},
    {"cvt.rn.bf16x2.f32", "w,w,w", map<both<to_bfloat16>, u32, float, float>},
    {"cvt.rna.tf32.f32", "w,w", map<to_tf32, u32, float>},
};

}  // namespace

Instructions arithmetic() { return {kInstructions, std::size(kInstructions)}; }

}  // namespace equifast::ptx
