// orbit_scores: similarity with the reference, softmax over the group and arg max. Forward and backward each read the
// vectors once.
#include "cpu/kernels/vectors.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

template <class A>
constexpr A kNormFloor = A(1e-8);  // the default of F.cosine_similarity

}  // namespace

// A task is a run of kScoreSamples samples.
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
      a.element[b] = softmax<T>(scores.data(), a.E, static_cast<A>(a.beta), probabilities);
      narrow_row(scores.data(), static_cast<T*>(a.activations) + b * a.E, a.E);
      narrow_row(probabilities, static_cast<T*>(a.probabilities) + b * a.E, a.E);
    }
  });
}

// A task is a run of kScoreSamples samples, which has a partial gradient of the reference. No gradient passes through a
// score that is not finite, nor through a sample that fell back to the identity: its probabilities are NaN.
void orbit_scores_backward(const ScoreGradArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    const int64_t E = a.E, d = a.d;
    Buffer<A> r(d), v(d), g(3 * E);
    A* grad = g.data();
    widen_row(static_cast<const T*>(a.reference), r.data(), d);
    const A length = a.cosine ? norm(r.data(), d, kNormFloor<A>) : A(1);
    const bool r_free = a.cosine && length > kNormFloor<A>;
    for (int64_t task = begin; task < end; ++task) {
      double* partial = a.grad_reference + task * d;
      std::memset(partial, 0, d * sizeof(double));
      double along_r = 0;
      for (int64_t b = task * kScoreSamples; b < smaller((task + 1) * kScoreSamples, a.B); ++b) {
        const bool usable = score_gradient<T>(a, b, grad);
        for (int64_t e = 0; e < E; ++e) {
          const int64_t row = (e * a.B + b) * d;
          widen_row(static_cast<const T*>(a.vectors) + row, v.data(), d);
          const A n = a.cosine ? norm(v.data(), d, kNormFloor<A>) : A(1);
          const A s = dot(v.data(), r.data(), d) / (n * length);
          if (!usable || !std::isfinite(s)) {
            for (int64_t k = 0; k < d; ++k) v[k] = 0;
            narrow_row(v.data(), static_cast<T*>(a.grad_vectors) + row, d);
            continue;
          }
          const A across = grad[e] / (n * length);  // dv = across·r − along·v
          const A along = a.cosine && n > kNormFloor<A> ? grad[e] * s / (n * n) : A(0);
          if (r_free) along_r += double(grad[e]) * s;
          for (int64_t k = 0; k < d; ++k) partial[k] += double(across * v[k]);
          for (int64_t k = 0; k < d; ++k) v[k] = across * r[k] - along * v[k];
          narrow_row(v.data(), static_cast<T*>(a.grad_vectors) + row, d);
        }
      }
      if (r_free && along_r != 0)
        for (int64_t k = 0; k < d; ++k) partial[k] -= along_r * r[k] / (double(length) * length);
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
