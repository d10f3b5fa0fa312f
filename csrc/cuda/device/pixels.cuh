// Pixel types: the types in which they are summed, and how they are read, written and chosen at run time.
#pragma once

#include <type_traits>

#include "common/types.h"
#include "cuda/runtime/hardware.h"

namespace equifast::cuda {

// The type in which values of type T are summed.
template <class T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline float widen(float v) { return v; }
__device__ inline double widen(double v) { return v; }

template <class T>
__device__ inline T narrow(Acc<T> v) {
  if constexpr (std::is_same_v<T, half>) return to_half(v);
  else if constexpr (std::is_same_v<T, bfloat16>) return to_bfloat16(v);
  else return v;
}

// Calls f(T{}) with the type T that a dtype stands for.
template <class F>
void visit(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::float64: return f(double{});
    case Dtype::float32: return f(float{});
    case Dtype::float16: return f(half{});
    case Dtype::bfloat16: return f(bfloat16{});
  }
}

// The 16 bytes that a thread reads or writes at once, where addresses allow.
template <class T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T at[kSize];
};

}  // namespace equifast::cuda
