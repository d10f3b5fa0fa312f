// contrastive_loss: Σ_{e ≠ h} |⟨v_e, v_h⟩| of each sample, while its E vectors are in the cache.
#include "cpu/kernels/vectors.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

template <class A>
constexpr A kUnitFloor = A(1e-12);  // the default of F.normalize

// The vectors of sample b, (E, d), and their lengths (E,) if they are normalized.
template <class T>
void load(const ContrastiveArgs& a, int64_t b, Acc<T>* v, Acc<T>* lengths) {
  load_orbit<T>(a.vectors, a.E, a.B, a.d, b, v);
  if (!a.normalize) return;
  for (int64_t e = 0; e < a.E; ++e) {
    lengths[e] = norm(v + e * a.d, a.d, kUnitFloor<Acc<T>>);
    for (int64_t k = 0; k < a.d; ++k) v[e * a.d + k] /= lengths[e];
  }
}

}  // namespace

// A task is a run of kScoreSamples samples.
void contrastive_loss(const ContrastiveArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    const int64_t E = a.E, d = a.d;
    Buffer<A> v(E * d), lengths(E);
    for (int64_t b = begin * kScoreSamples; b < smaller(end * kScoreSamples, a.B); ++b) {
      load<T>(a, b, v.data(), lengths.data());
      A* gram = static_cast<A*>(a.gram) + b * E * E;
      double sum = 0;
      for (int64_t e = 0; e < E; ++e) {
        gram[e * E + e] = 0;
        for (int64_t h = 0; h < e; ++h) {
          const A product = dot(v.data() + e * d, v.data() + h * d, d);
          gram[e * E + h] = gram[h * E + e] = product;
          sum += 2 * std::fabs(product);
        }
      }
      a.partial[b] = sum;
    }
  });
}

// A task is a run of kScoreSamples samples. dv_e = 2·scale·Σ_h sign⟨v_e, v_h⟩·v_h, then through the normalisation if
// there is one. A product that is not finite passes no gradient.
void contrastive_loss_backward(const ContrastiveArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    const int64_t E = a.E, d = a.d;
    Buffer<A> v(E * d), lengths(E), g(d);
    const A scale = static_cast<A>(2 * a.scale);
    for (int64_t b = begin * kScoreSamples; b < smaller(end * kScoreSamples, a.B); ++b) {
      load<T>(a, b, v.data(), lengths.data());
      const A* gram = static_cast<const A*>(a.gram) + b * E * E;
      for (int64_t e = 0; e < E; ++e) {
        std::memset(g.data(), 0, d * sizeof(A));
        for (int64_t h = 0; h < E; ++h) {
          const A product = gram[e * E + h], sign = (product > 0) - (product < 0);
          if (sign != 0 && std::isfinite(product))
            for (int64_t k = 0; k < d; ++k) g[k] += sign * v[h * d + k];
        }
        const A* u = v.data() + e * d;
        A factor = scale, radial = 0;
        if (a.normalize) {
          factor = scale / lengths[e];
          if (lengths[e] > kUnitFloor<A> && std::isfinite(lengths[e])) radial = dot(g.data(), u, d);
        }
        for (int64_t k = 0; k < d; ++k) g[k] = factor * (g[k] - times(radial, u[k]));
        narrow_row(g.data(), static_cast<T*>(a.grad_vectors) + (e * a.B + b) * d, d);
      }
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
