// orbit_scores: similarity with the reference, softmax over the group and arg max, one pass over the vectors each way.
#include "vectors.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

template <class A>
constexpr A kNormFloor = A(1e-8);  // as F.cosine_similarity

// Probabilities and the lowest id of the maximum; the identity and NaN where a score is not finite.
template <class A>
int64_t softmax(const A* scores, int64_t E, A beta, A* probabilities) {
  int64_t best = 0;
  bool finite = true;
  for (int64_t e = 0; e < E; ++e) {
    finite = finite && std::isfinite(scores[e]);
    if (scores[e] > scores[best]) best = e;
  }
  if (!finite) {
    for (int64_t e = 0; e < E; ++e) probabilities[e] = std::numeric_limits<A>::quiet_NaN();
    return 0;
  }
  A top = beta * scores[0], sum = 0;
  for (int64_t e = 1; e < E; ++e) top = beta * scores[e] > top ? beta * scores[e] : top;
  for (int64_t e = 0; e < E; ++e) sum += probabilities[e] = std::exp(beta * scores[e] - top);
  for (int64_t e = 0; e < E; ++e) probabilities[e] /= sum;
  return best;
}

}  // namespace

// Tasks of kScoreSamples samples.
void orbit_scores(const ScoreArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    Buffer<A> r(a.d), v(a.d), scores(2 * a.E);
    A* probabilities = &scores[a.E];
    widen_row(static_cast<const T*>(a.reference), r.data(), a.d);
    const A length = a.cosine ? norm(r.data(), a.d, kNormFloor<A>) : A(1);
    for (int64_t b = begin * kScoreSamples; b < smaller(end * kScoreSamples, a.B); ++b) {
      for (int64_t e = 0; e < a.E; ++e) {
        widen_row(static_cast<const T*>(a.vectors) + (e * a.B + b) * a.d, v.data(), a.d);
        const A product = dot(v.data(), r.data(), a.d);
        scores[e] = a.cosine ? product / (norm(v.data(), a.d, kNormFloor<A>) * length) : product;
      }
      a.element[b] = softmax(scores.data(), a.E, static_cast<A>(a.beta), probabilities);
      narrow_row(scores.data(), static_cast<T*>(a.activations) + b * a.E, a.E);
      narrow_row(probabilities, static_cast<T*>(a.probabilities) + b * a.E, a.E);
    }
  });
}

// Tasks of kScoreSamples samples, each with its own partial gradient of the reference.
void orbit_scores_backward(const ScoreGradArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    const int64_t E = a.E, d = a.d;
    Buffer<A> r(d), v(d), g(3 * E);
    A *grad = &g[0], *p = &g[E], *gp = &g[2 * E];
    widen_row(static_cast<const T*>(a.reference), r.data(), d);
    const A length = a.cosine ? norm(r.data(), d, kNormFloor<A>) : A(1);
    const bool r_free = a.cosine && length > kNormFloor<A>;
    for (int64_t task = begin; task < end; ++task) {
      double* partial = a.grad_reference + task * d;
      std::memset(partial, 0, d * sizeof(double));
      double along_r = 0;
      for (int64_t b = task * kScoreSamples; b < smaller((task + 1) * kScoreSamples, a.B); ++b) {
        if (a.grad_activations) widen_row(static_cast<const T*>(a.grad_activations) + b * E, grad, E);
        else std::memset(grad, 0, E * sizeof(A));
        widen_row(static_cast<const T*>(a.probabilities) + b * E, p, E);
        if (a.grad_probabilities && p[0] == p[0]) {
          widen_row(static_cast<const T*>(a.grad_probabilities) + b * E, gp, E);
          A mean = 0;
          for (int64_t e = 0; e < E; ++e) mean += p[e] * gp[e];
          for (int64_t e = 0; e < E; ++e) grad[e] += static_cast<A>(a.beta) * p[e] * (gp[e] - mean);
        }
        for (int64_t e = 0; e < E; ++e) {
          const int64_t row = (e * a.B + b) * d;
          widen_row(static_cast<const T*>(a.vectors) + row, v.data(), d);
          A across = grad[e], along = 0;  // dv = across·r − along·v
          if (a.cosine) {
            const A n = norm(v.data(), d, kNormFloor<A>), s = dot(v.data(), r.data(), d) / (n * length);
            across = grad[e] / (n * length);
            along = n > kNormFloor<A> ? grad[e] * s / (n * n) : A(0);
            if (r_free) along_r += double(grad[e]) * s;
          }
          for (int64_t k = 0; k < d; ++k) partial[k] += double(across * v[k]);
          for (int64_t k = 0; k < d; ++k) v[k] = across * r[k] - along * v[k];
          narrow_row(v.data(), static_cast<T*>(a.grad_vectors) + row, d);
        }
      }
      if (r_free)
        for (int64_t k = 0; k < d; ++k) partial[k] -= along_r * r[k] / (double(length) * length);
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
