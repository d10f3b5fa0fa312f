// Functions on rows of registers: what instructions have in common that compute lane by lane.
#pragma once

#include <tuple>
#include <utility>

#include "machine.h"

namespace equifast::ptx {

// out[lane] = value(lane) for the active lanes.
template <class T, class F>
void store(T* out, Mask active, F value) {
  if (active == kAll) {
#pragma GCC ivdep
    for (int i = 0; i < kLanes; ++i) out[i] = value(i);
  } else {
    for (int i = 0; i < kLanes; ++i)
      if (active >> i & 1) out[i] = value(i);
  }
}

// A source that is the lower half of a register.
template <class T>
struct Low {
  T low, high;
  operator T() const { return low; }
};

// The instruction that computes F of registers of the types A into a register of the type R.
template <auto F, class R, class... A>
void map(Warp& warp, const int32_t* o, Mask active) {
  [&]<size_t... I>(std::index_sequence<I...>) {
    const std::tuple<const A*...> in{warp.row<const A>(o[I + 1])...};
    store(warp.row<R>(o[0]), active, [&](int i) { return static_cast<R>(F(std::get<I>(in)[i]...)); });
  }(std::index_sequence_for<A...>());
}

// The same of one type throughout.
template <auto F, class T>
constexpr Run unary = map<F, T, T>;
template <auto F, class T>
constexpr Run binary = map<F, T, T, T>;
template <auto F, class T>
constexpr Run ternary = map<F, T, T, T, T>;

// Bits of a predicate for the active lanes.
inline void set_predicate(Warp& warp, int32_t offset, Mask active, Mask bits) {
  Mask& predicate = *warp.row<Mask>(offset);
  predicate = (predicate & ~active) | (bits & active);
}

}  // namespace equifast::ptx
