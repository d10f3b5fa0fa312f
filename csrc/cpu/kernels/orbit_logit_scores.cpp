// orbit_logit_scores: a score of the logits of each member, softmax over the group and arg max, and their gradient.
//
// A row of logits is read from memory once; after that it is in the cache.
// 1. Find its largest logits.
// 2. Sum the exponentials of all logits, relative to the largest one that counts.
// 3. Backward: scale the exponentials, which are the derivatives.
#include "cpu/kernels/activations.h"
#include "cpu/kernels/vectors.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();
template <class A>
constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();

// Where `exponential` ends. A logit of −∞ counts as one so far below the largest.
template <class A>
constexpr A kLowest = sizeof(A) == 4 ? A(-87) : A(-745);

template <class A>
inline A larger(A x, A y) {
  return x > y ? x : y;
}

// Running numbers side by side that no operation waits for. What is left over at the end of a row joins the first of
// them, and they are folded in halves: the order is the same for every instruction set.
constexpr int64_t kLanes = 16;

// A number of places that fills lanes.
constexpr int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Calls f(k, x) for every kLanes places k of a row of n numbers, with those numbers x, of which the last ones may be
// the filling. So a short row, or the rest of a long one, takes whole vectors too: compilers load them under a mask.
template <class A, class F>
inline void each_lanes(const A* z, int64_t n, A filling, F f) {
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) f(k, z + k);
  if (k == n) return;
  A x[kLanes];
  for (int64_t l = 0; l < kLanes; ++l) x[l] = k + l < n ? z[k + l] : filling;
  f(k, x);
}

// Calls f(lane, partner) until all have joined lane 0.
template <class F>
inline void fold(F f) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) f(l, l + half);
}

// The largest logit, −∞ of none. NaN counts as −∞.
template <class A>
A largest(const A* z, int64_t n) {
  A lanes[kLanes];
  for (A& lane : lanes) lane = -kInfinity<A>;
  each_lanes(z, n, -kInfinity<A>, [&](int64_t, const A* x) {
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] = larger(x[l], lanes[l]);
  });
  fold([&](int64_t l, int64_t m) { lanes[l] = larger(lanes[m], lanes[l]); });
  return lanes[0];
}

template <class A>
struct Pair {
  A first, second;
};

// The two largest of at least two logits, if none is NaN.
template <class A>
Pair<A> two_largest(const A* z, int64_t n) {
  A first[kLanes], second[kLanes];
  for (int64_t l = 0; l < kLanes; ++l) first[l] = second[l] = -kInfinity<A>;
  const auto join = [&](int64_t l, A x) {
    const A less = x < first[l] ? x : first[l];
    first[l] = larger(x, first[l]);
    second[l] = larger(less, second[l]);
  };
  each_lanes(z, n, -kInfinity<A>, [&](int64_t, const A* x) {
    for (int64_t l = 0; l < kLanes; ++l) join(l, x[l]);
  });
  fold([&](int64_t l, int64_t m) {
    second[l] = larger(second[m], second[l]);
    join(l, first[m]);
  });
  return {first[0], second[0]};
}

template <class A>
bool has_nan(const A* z, int64_t n) {
  int64_t found = 0;
  for (int64_t k = 0; k < n; ++k) found += z[k] != z[k];
  return found > 0;
}

// out[k] = e^(z[k] − top), but 1 for a logit above the top; 0 in the places that fill lanes. Returns the sum.
template <class A>
A exponentials(const A* __restrict z, A top, A* __restrict out, int64_t n) {
  const auto power = [top](A x) { return exponential((top < x ? top : x) - top); };
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t k = 0; k < whole; ++k) out[k] = power(z[k]);
  if (whole < n) {
    A x[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) x[l] = whole + l < n ? z[whole + l] : top;
    for (int64_t l = 0; l < kLanes; ++l) x[l] = power(x[l]);
    for (int64_t l = 0; l < kLanes; ++l) out[whole + l] = whole + l < n ? x[l] : A(0);
  }
  A lanes[kLanes] = {};
  for (int64_t k = 0; k < padded(n); k += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += out[k + l];
  fold([&](int64_t l, int64_t m) { lanes[l] += lanes[m]; });
  return lanes[0];
}

// Σ weights[k]·(z[k] − top), of which the first factors are 0 in the places that fill lanes.
template <class A>
A weighted_sum(const A* z, A top, const A* weights, int64_t n) {
  A lanes[kLanes] = {};
  each_lanes(z, n, top, [&](int64_t k, const A* x) {
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += larger(x[l] - top, kLowest<A>) * weights[k + l];
  });
  fold([&](int64_t l, int64_t m) { lanes[l] += lanes[m]; });
  return lanes[0];
}

template <class A>
void scale_row(const A* __restrict x, A factor, A* __restrict out, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = factor * x[k];
}

// out[k] = factor·weights[k]·(z[k] − top − level)
template <class A>
void spread_entropy(const A* __restrict z, const A* __restrict weights, A top, A factor, A level, A* __restrict out,
                    int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = factor * weights[k] * (larger(z[k] - top, kLowest<A>) - level);
}

// A row of K logits, and what is measured of it. Of the logits, `own` stands against the others: the largest one, or
// that of a class. Scores by energy and entropy have none, so the others are all. `top` is the largest of the others,
// and `total` the sum of their exponentials relative to it.
template <class A>
struct Row {
  LogitScore kind;
  const A* z;
  int64_t K, index;
  A* weights;  // (padded(K),), for the exponentials
  A own = 0, top = 0, total = 1, score = kNaN<A>;

  void measure() {
    if (is_pair()) {
      const Pair<A> pair = two_largest(z, K);
      own = pair.first, top = pair.second;
    } else if (kind == LogitScore::of_class) {
      if (index < 0 || index >= K) return;
      own = z[index], top = larger(largest(z, index), largest(z + index + 1, K - index - 1));
    } else {
      top = largest(z, K);
    }
    if (kind == LogitScore::margin || !std::isfinite(top)) {
      if (has_nan(z, K) || kind == LogitScore::negative_entropy) return;
    } else {
      total = exponentials(z, top, weights, K);
      // The own logit was among them. What is left is at least 1, so nothing cancels.
      if (has_own()) total -= exponential((top < own ? top : own) - top);
    }
    const A scale = std::log(total);
    if (has_own()) score = (own - top) - scale;
    else if (kind == LogitScore::energy) score = top + scale;
    else score = weighted_sum(z, top, weights, K) / total - scale;
  }

  // The gradient of the logits, for `grad` of the score, which is finite. It takes the weights that were measured.
  void differentiate(A grad, A* out) const {
    if (kind == LogitScore::margin) {
      std::memset(out, 0, K * sizeof(A));
    } else if (kind == LogitScore::negative_entropy) {
      spread_entropy(z, weights, top, grad / total, std::log(total) + score, out, K);
    } else {
      scale_row(weights, (has_own() ? -grad : grad) / total, out, K);
    }
    if (!has_own()) return;
    const int64_t first = is_pair() ? find(own, -1) : index;
    out[first] = grad;
    if (kind == LogitScore::margin) out[find(top, first)] = -grad;
  }

 private:
  bool is_pair() const { return kind == LogitScore::confidence || kind == LogitScore::margin; }
  bool has_own() const { return is_pair() || kind == LogitScore::of_class; }

  // Where the first logit with a value is that isn't at the place `but`.
  int64_t find(A value, int64_t but) const {
    int64_t k = 0;
    while (z[k] != value || k == but) ++k;
    return k;
  }
};

// The logits of a row in the accumulate type: in place, or widened to `copy`.
template <class T>
const Acc<T>* row_of(const LogitScoreArgs& a, int64_t row, Acc<T>* copy) {
  const T* from = static_cast<const T*>(a.logits) + row * a.K;
  if constexpr (__is_same(T, Acc<T>)) return from;
  else return widen_row(from, copy, a.K), copy;
}

}  // namespace

void orbit_logit_scores(const LogitScoreArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    Buffer<A> copy(a.K), weights(padded(a.K));
    for (int64_t b = begin * a.samples; b < smaller(end * a.samples, a.B); ++b) {
      A* scores = static_cast<A*>(a.activations) + b * a.E;
      for (int64_t e = 0; e < a.E; ++e) {
        Row<A> row = {a.score, row_of<T>(a, e * a.B + b, copy.data()), a.K, a.index ? a.index[b] : 0, weights.data()};
        row.measure();
        scores[e] = row.score;
      }
      A* probabilities = static_cast<A*>(a.probabilities) + b * a.E;
      a.element[b] = softmax<A>(scores, a.E, static_cast<A>(a.beta), probabilities);
    }
  });
}

// No gradient passes through a score that is not finite, nor through a sample that fell back to the identity.
void orbit_logit_scores_backward(const LogitScoreArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    Buffer<A> copy(a.K), weights(padded(a.K)), out(a.K), grad(3 * a.E);
    for (int64_t b = begin * a.samples; b < smaller(end * a.samples, a.B); ++b) {
      const bool usable = score_gradient<A>(a, b, grad.data());
      const int64_t index = a.index ? a.index[b] : 0;
      for (int64_t e = 0; e < a.E; ++e) {
        const int64_t row = e * a.B + b;
        T* to = static_cast<T*>(a.grad_logits) + row * a.K;
        bool passes = usable && grad[e] != 0;
        if (passes) {
          Row<A> measured = {a.score, row_of<T>(a, row, copy.data()), a.K, index, weights.data()};
          measured.measure();
          passes = std::isfinite(measured.score);
          if (passes) measured.differentiate(grad[e], out.data());
        }
        if (passes) narrow_row(out.data(), to, a.K);
        else std::memset(to, 0, a.K * sizeof(T));
      }
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
