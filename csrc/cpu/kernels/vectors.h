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

// Writes the probabilities and returns the id of the maximum, the lowest of several. A score of −∞ masks its element. A
// sample with a score of NaN or +∞, or with scores of −∞ alone, gets the identity and NaN probabilities. What decides
// that are the scores as they are returned, in dtype T.
template <class T, class A>
int64_t softmax(const A* scores, int64_t E, A beta, A* probabilities) {
  constexpr A kInfinity = std::numeric_limits<A>::infinity();
  const auto returned = [&](int64_t e) { return widen(narrow<T>(scores[e])); };
  const auto logit = [&](int64_t e) { return scores[e] > -kInfinity ? beta * scores[e] : -kInfinity; };
  int64_t best = 0;
  bool usable = true;
  for (int64_t e = 0; e < E; ++e) {
    usable = usable && returned(e) < kInfinity;
    if (scores[e] > scores[best]) best = e;
  }
  if (!usable || returned(best) == -kInfinity) {
    for (int64_t e = 0; e < E; ++e) probabilities[e] = std::numeric_limits<A>::quiet_NaN();
    return 0;
  }
  A top = -kInfinity, sum = 0;
  for (int64_t e = 0; e < E; ++e) top = logit(e) > top ? logit(e) : top;
  for (int64_t e = 0; e < E; ++e) sum += probabilities[e] = std::exp(logit(e) - top);
  for (int64_t e = 0; e < E; ++e) probabilities[e] /= sum;
  return best;
}

// The gradient of the activations of sample b, directly and through the probabilities: the first E of the 3·E numbers
// at `grad`, the others being scratch memory. T is the type of all that is (B, E). Returns whether the sample chose by
// its scores: otherwise its probabilities are NaN.
template <class T, class Args>
bool score_gradient(const Args& a, int64_t b, Acc<T>* grad) {
  using A = Acc<T>;
  const int64_t E = a.E;
  A *p = grad + E, *gp = grad + 2 * E;
  if (a.grad_activations) widen_row(static_cast<const T*>(a.grad_activations) + b * E, grad, E);
  else std::memset(grad, 0, E * sizeof(A));
  widen_row(static_cast<const T*>(a.probabilities) + b * E, p, E);
  const bool usable = p[0] == p[0];
  if (a.grad_probabilities && usable) {
    widen_row(static_cast<const T*>(a.grad_probabilities) + b * E, gp, E);
    A mean = 0;
    for (int64_t e = 0; e < E; ++e) mean += p[e] * gp[e];
    for (int64_t e = 0; e < E; ++e) grad[e] += static_cast<A>(a.beta) * p[e] * (gp[e] - mean);
  }
  return usable;
}

// The vectors of sample b, (E, d) in the accumulate type, from those of all samples, (E, B, d).
template <class T>
inline void load_orbit(const void* vectors, int64_t E, int64_t B, int64_t d, int64_t b, Acc<T>* out) {
  for (int64_t e = 0; e < E; ++e) widen_row(static_cast<const T*>(vectors) + (e * B + b) * d, out + e * d, d);
}

}  // namespace
}  // namespace equifast::cpu
