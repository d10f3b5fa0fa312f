// Pixel types and scratch memory of the CPU kernels. Everything here has internal linkage: each instruction set
// compiles a copy of its own, and the linker must never merge them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "common/types.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__x86_64__)
#define EQUIFAST_CONVERT_HALF
#include "cpu/kernels/half.h"
#endif

namespace equifast::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

struct bfloat16 {
  uint16_t bits;
};
#if defined(__aarch64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
using half = __fp16;  // of which this compiler knows no other name in C++
#else
using half = _Float16;
#endif

template <class T>
struct AccumulateType {
  using type = float;
};
template <>
struct AccumulateType<double> {
  using type = double;
};
// What values of type T are summed in.
template <class T>
using Acc = typename AccumulateType<T>::type;

#ifdef EQUIFAST_CONVERT_HALF
inline float widen(half v) {
  uint16_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return float_of_half(bits);
}
#else
inline float widen(half v) { return static_cast<float>(v); }
#endif
inline float widen(float v) { return v; }
inline double widen(double v) { return v; }
inline float widen(bfloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

template <class T>
inline T narrow(Acc<T> v) {
  return static_cast<T>(v);
}
template <>
inline bfloat16 narrow<bfloat16>(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  return {static_cast<uint16_t>(v != v ? 0x7FC0 : rounded)};
}

#ifdef EQUIFAST_CONVERT_HALF
template <>
inline half narrow<half>(float v) {
  const uint16_t bits = half_of_float(v);
  half out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
#endif

// out[j] = in[j] for n values, in the accumulate type.
template <class T>
inline void widen_row(const T* in, Acc<T>* out, int64_t n) {
  int64_t j = 0;
#ifdef __AVX512F__
  if constexpr (sizeof(T) == 2) {
    for (; j + 16 <= n; j += 16) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + j));
      __m512 wide;
      if constexpr (__is_same(T, half)) wide = _mm512_cvtph_ps(v);
      else wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
      _mm512_storeu_ps(out + j, wide);
    }
  }
#elif defined(__F16C__)
  if constexpr (__is_same(T, half)) {
    for (; j + 8 <= n; j += 8)
      _mm256_storeu_ps(out + j, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + j))));
  }
#endif
  for (; j < n; ++j) out[j] = widen(in[j]);
}

// out[j] = in[j] for n values, rounded to the pixel type.
template <class T>
inline void narrow_row(const Acc<T>* in, T* out, int64_t n) {
  int64_t j = 0;
#ifdef __AVX512F__
  if constexpr (__is_same(T, half)) {
    for (; j + 16 <= n; j += 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j),
                          _mm512_cvtps_ph(_mm512_loadu_ps(in + j), _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__F16C__)
  if constexpr (__is_same(T, half)) {
    for (; j + 8 <= n; j += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + j),
                       _mm256_cvtps_ph(_mm256_loadu_ps(in + j), _MM_FROUND_TO_NEAREST_INT));
  }
#endif
  for (; j < n; ++j) out[j] = narrow<T>(in[j]);
}

// Uninitialised scratch memory, aligned to a cache line.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n = 0) { resize(n); }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void resize(int64_t n) {
    if (n <= size_) return;
    std::free(data_);
    size_ = 0;
    data_ = static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64));
    if (!data_) throw std::bad_alloc();
    size_ = n;
  }
  T* data() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

// Calls f(T{}) for the pixel type of a call.
template <class F>
void visit(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::float64: return f(double{});
    case Dtype::float32: return f(float{});
    case Dtype::float16: return f(half{});
    case Dtype::bfloat16: return f(bfloat16{});
  }
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace
}  // namespace equifast::cpu
