// Pixel types: what they are summed in, and how they are read, written and chosen at run time.
#pragma once

#include <type_traits>

#include "cuda/runtime/hardware.h"

namespace equifast::cuda {

enum class Dtype { float64, float32, float16, bfloat16 };

// What values of type T are summed in.
template <class T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

#if defined(__CUDACC__) || defined(EQUIFAST_EMULATED)
__device__ inline float widen(float v) { return v; }
__device__ inline double widen(double v) { return v; }

template <class T>
__device__ inline T narrow(Acc<T> v) {
  if constexpr (std::is_same_v<T, half>) return to_half(v);
  else if constexpr (std::is_same_v<T, bfloat16>) return to_bfloat16(v);
  else return v;
}
#endif

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

// What one thread reads or writes at once, where addresses allow.
template <class T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T at[kSize];
};

template <class A>
__host__ __device__ inline A ceil_div(A a, A b) {
  return (a + b - 1) / b;
}

}  // namespace equifast::cuda
