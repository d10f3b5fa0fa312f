// The gradients of scores and losses, a run of samples a block.
#pragma once

#include "cuda/device/vectors.cuh"

namespace equifast::cuda {
namespace {

constexpr int kColumns = 4;  // of a vector, that a thread holds at once

// By one warp, of each element: across and along in dv = across·r − along·v, from the gradients of all but the
// contrastive loss; and along_reference in dr = Σ across·v − along_reference·r. All are 0 for a score that is not
// finite, and throughout a sample that fell back, whose probabilities are NaN.
template <class T>
__device__ void score_gradients(const ScoreGradArgs& a, int64_t b, const Shared<Acc<T>>& s) {
  using A = Acc<T>;
  const int E = static_cast<int>(a.E);
  const auto at = [&](const Gradient& g, int e) {
    return widen(static_cast<const T*>(g.data)[b * g.sample + e * g.element]);
  };
  const auto probability = [&](int e) { return widen(static_cast<const T*>(a.probabilities)[b * E + e]); };
  A mean = 0;
  if (a.grad_probabilities.data) {
    for (int e = lane(); e < E; e += kLanes) mean += probability(e) * at(a.grad_probabilities, e);
    mean = warp_sum(mean);
  }

  const A prior_beta = static_cast<A>(a.prior_beta), beta = static_cast<A>(a.beta);
  const auto activation = [&](int e) { return widen(static_cast<const T*>(a.activations)[b * E + e]); };
  const auto logit = [&](int e) { return logit_of(activation(e), prior_beta); };
  const Exponentials<A> all(a.grad_prior ? E : 0, logit);
  const int64_t target = a.grad_prior ? wanted(a, b) : 0;
  const A prior =
      a.grad_prior ? widen(*static_cast<const T*>(a.grad_prior)) * (prior_beta / static_cast<A>(a.B)) : A(0);

  const A floor = kNormFloor<A>, m = sqrt(*s.reference_square), cm = at_least(m, floor);
  A along_reference = 0;
  for (int e = lane(); e < E; e += kLanes) {
    const A p = probability(e), n = sqrt(s.square[e]), cn = at_least(n, floor);
    const A score = a.cosine ? s.product[e] / (cn * cm) : s.product[e];
    s.across[e] = s.along[e] = 0;
    if (!(p == p && is_finite(score))) continue;
    A grad = 0;
    if (a.grad_activations.data) grad += at(a.grad_activations, e);
    if (a.grad_probabilities.data) grad += beta * p * (at(a.grad_probabilities, e) - mean);
    if (a.grad_prior && activation(e) > A(-INFINITY))
      grad += (exp(logit(e) - all.top) / all.sum - A(e == target)) * prior;
    s.across[e] = a.cosine ? grad / (cn * cm) : grad;
    if (!a.cosine) continue;
    if (n > floor) s.along[e] = grad * score / cn / cn;
    if (m > floor) along_reference += grad * score / cm / cm;
  }
  along_reference = warp_sum(along_reference);
  if (lane() == 0) *s.along_reference = along_reference;
}

// Where a thread stands in a row of `count` columns: at column k and at each 32 further, as far as there are any.
struct Places {
  int at[kColumns];
  __device__ Places(int k, int count) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) at[i] = k + kLanes * i < count ? k + kLanes * i : count - 1;
  }
};

// Σ_h sign⟨v_e, v_h⟩·v_h, perhaps of unit vectors; `gram`: row e of the Gram matrix. A product that is not finite
// counts as 0.
template <class A>
__device__ void towards(const Shared<A>& s, const A* __restrict__ gram, int E, int width, const Places& places,
                        A (&sum)[kColumns]) {
#pragma unroll
  for (A& x : sum) x = 0;
#pragma unroll 2
  for (int h = 0; h < E; ++h) {
    const A product = gram[h], sign = A(product > 0) - A(product < 0), factor = sign * s.unit[h];
    const A* v = s.tile + h * width;
    if (sign != 0 && is_finite(product))  // else 0·∞
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sum[i] = fma(factor, v[places.at[i]], sum[i]);
  }
}

// ⟨towards, v_e⟩ of each row of unit vectors, for some columns: what normalisation takes away again, a multiple of v_e.
template <class T>
__device__ void add_radial(const Orbit<T>& o, const Shared<Acc<T>>& s, const Acc<T>* gram, int64_t start) {
  using A = Acc<T>;
  const int count = o.columns(start);
  for (int e = warp(); e < o.E; e += warps()) {
    const A* v = s.tile + e * o.width;
    A product = 0;
    for (int k = lane(); k < count; k += kLanes * kColumns) {
      const Places places(k, count);
      A sum[kColumns];
      towards(s, gram + int64_t(e) * o.E, o.E, o.width, places, sum);
#pragma unroll
      for (int i = 0; i < kColumns; ++i)
        if (k + kLanes * i < count) product += times(sum[i], v[places.at[i]]);
    }
    product = warp_sum(product);
    if (lane() == 0) s.radial[e] = start > 0 ? s.radial[e] + product : product;
  }
}

// The gradient of some columns of each vector. `apart`: of each product in the contrastive loss, whatever its sign.
template <class T, bool kScores, bool kContrastive>
__device__ void write_gradient(const ScoreGradArgs& a, const Orbit<T>& o, const Shared<Acc<T>>& s, int64_t b,
                               int64_t start, bool contrastive, Acc<T> apart) {
  using A = Acc<T>;
  const int count = o.columns(start);
  const A* gram = static_cast<const A*>(a.gram) + b * o.E * o.E;
  for (int e = warp(); e < o.E; e += warps()) {
    const A* v = s.tile + e * o.width;
    T* out = static_cast<T*>(a.grad_vectors) + (e * a.B + b) * o.d + start;
    const A across = kScores ? s.across[e] : A(0);
    A along = kScores ? s.along[e] : A(0), pull = apart;
    if (kContrastive && contrastive && a.normalize) {
      const A length = sqrt(s.square[e]);
      pull = is_finite(length) ? pull * s.unit[e] : A(0);
      if (length > kUnitFloor<A>) along += times(pull, s.radial[e] * s.unit[e] * s.unit[e]);
    }
    for (int k = lane(); k < count; k += kLanes * kColumns) {
      const Places places(k, count);
      A sum[kColumns];
      if (kContrastive && contrastive) towards(s, gram + int64_t(e) * o.E, o.E, o.width, places, sum);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int at = k + kLanes * i;
        if (at >= count) continue;
        A grad = kScores ? times(across, widen(o.reference[start + at])) : A(0);
        grad -= times(along, v[at]);
        if (kContrastive && contrastive) grad = fma(pull, sum[i], grad);
        out[at] = narrow<T>(grad);
      }
    }
  }
}

// Adds to the block's partial gradient of the reference, of which a thread always takes the same columns.
template <class T>
__device__ void add_reference_gradient(const ScoreGradArgs& a, const Orbit<T>& o, const Shared<Acc<T>>& s,
                                       int64_t start, bool first) {
  using A = Acc<T>;
  const int count = o.columns(start);
  A* partial = static_cast<A*>(a.partial) + blockIdx.x * o.d + start;
  for (int k = threadIdx.x; k < count; k += blockDim.x) {
    A sum = first ? A(0) : partial[k];
#pragma unroll 4
    for (int e = 0; e < o.E; ++e)
      if (s.across[e] != 0) sum = fma(s.across[e], s.tile[e * o.width + k], sum);  // else 0·∞
    sum -= times(*s.along_reference, widen(o.reference[start + k]));
    partial[k] = sum;
  }
}

// The gradients that a block's run of samples gives. Where a sample's vectors fit, they are read once.
template <class T, bool kScores, bool kContrastive>
__device__ void backward(const ScoreGradArgs& a) {
  using A = Acc<T>;
  const int64_t run = samples_per_block(a.B), first = blockIdx.x * run;
  const bool contrastive = kContrastive && a.grad_contrastive;
  A apart = 0;
  if (contrastive)
    apart = 2 * widen(*static_cast<const T*>(a.grad_contrastive)) / static_cast<A>(a.E * a.E) / static_cast<A>(a.B);
  for (int64_t b = first; b < first + run && b < a.B; ++b) {
    const Orbit<T> o(a, b, kScores);
    const Shared<A> s(o.E, o.width);
    if (b > first) __syncthreads();  // until all are done with the last sample
    read_rows<true>(o, s, 0, o.d, o.whole());
    __syncthreads();
    if (kScores && warp() == 0) score_gradients<T>(a, b, s);
    for (int e = threadIdx.x; contrastive && e < o.E; e += blockDim.x)
      s.unit[e] = a.normalize ? 1 / at_least(sqrt(s.square[e]), kUnitFloor<A>) : A(1);
    __syncthreads();

    // The vectors again, some columns after others.
    const auto each_tile = [&](auto f) {
      for (int64_t start = 0; start < o.d; start += o.width) {
        if (!o.whole()) {
          __syncthreads();
          read_rows<false>(o, s, start, o.columns(start), true);
          __syncthreads();
        }
        f(start);
      }
    };
    if constexpr (kContrastive) {
      const A* gram = static_cast<const A*>(a.gram) + b * o.E * o.E;
      if (contrastive && a.normalize) {
        each_tile([&](int64_t start) { add_radial(o, s, gram, start); });
        __syncwarp();  // for radial: a row stays with its warp
      }
    }
    each_tile([&](int64_t start) {
      write_gradient<T, kScores, kContrastive>(a, o, s, b, start, contrastive, apart);
      if constexpr (kScores) add_reference_gradient(a, o, s, start, b == first);
    });
  }
}

// As much as leaves room for a second block.
template <class T>
void launch_backward(const char* name, void (*kernel)(ScoreGradArgs), const ScoreGradArgs& a, Stream stream) {
  launch_on_orbits<T>(name, kernel, grad_blocks(a.B), a, device().shared / 2 - 1024, stream);
}

inline void sum_reference_gradient(const ScoreGradArgs& a, Stream stream) {
  sum_parts({a.dtype, grad_blocks(a.B), a.d, a.partial, 1, a.grad_reference}, stream);
}

}  // namespace
}  // namespace equifast::cuda
