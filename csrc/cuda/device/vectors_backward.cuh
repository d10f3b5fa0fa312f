// The gradients of scores and losses. A block has a run of samples.
#pragma once

#include "cuda/device/vectors.cuh"

namespace equifast::cuda {
namespace {

constexpr int kColumns = 4;  // columns of a vector that a thread holds at once

// The gradients of all but the contrastive loss are dv = across·r − along·v for each vector v, and
// dr = Σ across·v − along_reference·r for the reference r. One warp computes these factors. All are 0 for a score that
// is not finite, and for a sample that fell back to the identity: its probabilities are NaN.
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

  const A floor = kNormFloor<A>, r_norm = sqrt(*s.reference_square), r_length = at_least(r_norm, floor);
  A along_reference = 0;
  for (int e = lane(); e < E; e += kLanes) {
    const A p = probability(e), v_norm = sqrt(s.square[e]), v_length = at_least(v_norm, floor);
    const A score = a.cosine ? s.product[e] / (v_length * r_length) : s.product[e];
    s.across[e] = s.along[e] = 0;
    if (!(p == p && is_finite(score))) continue;
    A grad = 0;
    if (a.grad_activations.data) grad += at(a.grad_activations, e);
    if (a.grad_probabilities.data) grad += beta * p * (at(a.grad_probabilities, e) - mean);
    if (a.grad_prior && activation(e) > A(-INFINITY))
      grad += (exp(logit(e) - all.top) / all.sum - A(e == target)) * prior;
    s.across[e] = a.cosine ? grad / (v_length * r_length) : grad;
    if (!a.cosine) continue;
    if (v_norm > floor) s.along[e] = grad * score / v_length / v_length;
    if (r_norm > floor) along_reference += grad * score / r_length / r_length;
  }
  along_reference = warp_sum(along_reference);
  if (lane() == 0) *s.along_reference = along_reference;
}

// The columns of a thread in a row of `count`: column k and every 32nd after it; the last column, where there are no
// more.
struct Columns {
  int at[kColumns];
  __device__ Columns(int k, int count) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) at[i] = k + kLanes * i < count ? k + kLanes * i : count - 1;
  }
};

// The sum Σ_h sign⟨v_e, v_h⟩·v_h in some columns, of unit vectors if they are normalized. gram: row e of the Gram
// matrix. A product that is not finite counts as 0.
template <class A>
__device__ void towards(const Shared<A>& s, const A* __restrict__ gram, int E, int width, const Columns& columns,
                        A (&sum)[kColumns]) {
#pragma unroll
  for (A& x : sum) x = 0;
#pragma unroll 2
  for (int h = 0; h < E; ++h) {
    const A product = gram[h], sign = A(product > 0) - A(product < 0), factor = sign * s.unit[h];
    const A* v = s.tile + h * width;
    if (sign != 0 && is_finite(product))  // without this, 0·∞ would be NaN
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sum[i] = fma(factor, v[columns.at[i]], sum[i]);
  }
}

// Adds up radial = ⟨towards, v_e⟩ over some columns, for every vector v_e. Since vectors are normalized, that much of
// v_e is taken away from its gradient.
template <class T>
__device__ void add_radial(const Orbit<T>& o, const Shared<Acc<T>>& s, const Acc<T>* gram, int64_t start) {
  using A = Acc<T>;
  const int count = o.columns(start);
  for (int e = warp(); e < o.E; e += warps()) {
    const A* v = s.tile + e * o.width;
    A product = 0;
    for (int k = lane(); k < count; k += kLanes * kColumns) {
      const Columns columns(k, count);
      A sum[kColumns];
      towards(s, gram + int64_t(e) * o.E, o.E, o.width, columns, sum);
#pragma unroll
      for (int i = 0; i < kColumns; ++i)
        if (k + kLanes * i < count) product += times(sum[i], v[columns.at[i]]);
    }
    product = warp_sum(product);
    if (lane() == 0) s.radial[e] = start > 0 ? s.radial[e] + product : product;
  }
}

// Writes the gradient of some columns of each vector. pair_grad: the gradient of |⟨v_e, v_h⟩| in the contrastive loss.
template <class T, bool kScores, bool kContrastive>
__device__ void write_gradient(const ScoreGradArgs& a, const Orbit<T>& o, const Shared<Acc<T>>& s, int64_t b,
                               int64_t start, bool contrastive, Acc<T> pair_grad) {
  using A = Acc<T>;
  const int count = o.columns(start);
  const A* gram = static_cast<const A*>(a.gram) + b * o.E * o.E;
  for (int e = warp(); e < o.E; e += warps()) {
    const A* v = s.tile + e * o.width;
    T* out = static_cast<T*>(a.grad_vectors) + (e * a.B + b) * o.d + start;
    const A across = kScores ? s.across[e] : A(0);
    A along = kScores ? s.along[e] : A(0), pull = pair_grad;
    if (kContrastive && contrastive && a.normalize) {
      const A length = sqrt(s.square[e]);
      pull = is_finite(length) ? pull * s.unit[e] : A(0);
      if (length > kUnitFloor<A>) along += times(pull, s.radial[e] * s.unit[e] * s.unit[e]);
    }
    for (int k = lane(); k < count; k += kLanes * kColumns) {
      const Columns columns(k, count);
      A sum[kColumns];
      if (kContrastive && contrastive) towards(s, gram + int64_t(e) * o.E, o.E, o.width, columns, sum);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int column = k + kLanes * i;
        if (column >= count) continue;
        A grad = kScores ? times(across, widen(o.reference[start + column])) : A(0);
        grad -= times(along, v[column]);
        if (kContrastive && contrastive) grad = fma(pull, sum[i], grad);
        out[column] = narrow<T>(grad);
      }
    }
  }
}

// Adds some columns to the block's partial gradient of the reference. A column always belongs to the same thread.
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
      if (s.across[e] != 0) sum = fma(s.across[e], s.tile[e * o.width + k], sum);  // without this, 0·∞ would be NaN
    sum -= times(*s.along_reference, widen(o.reference[start + k]));
    partial[k] = sum;
  }
}

// The gradients of a block's run of samples. Where all columns of a sample's vectors fit in the tile, they are read
// once.
//
// 1. Read the vectors of a sample, and measure them.
// 2. Compute the factors of the gradients: of scores, and of normalisation.
// 3. Write the gradient of some columns of the vectors after others, and add to the partial gradient of the reference.
template <class T, bool kScores, bool kContrastive>
__device__ void backward(const ScoreGradArgs& a) {
  using A = Acc<T>;
  const int64_t run = samples_per_block(a.B), first = blockIdx.x * run;
  const bool contrastive = kContrastive && a.grad_contrastive;
  A pair_grad = 0;
  if (contrastive)
    pair_grad = 2 * widen(*static_cast<const T*>(a.grad_contrastive)) / static_cast<A>(a.E * a.E) / static_cast<A>(a.B);
  for (int64_t b = first; b < first + run && b < a.B; ++b) {
    const Orbit<T> o(a, b, kScores);
    const Shared<A> s(o.E, o.width);
    if (b > first) __syncthreads();  // until all threads are done with the last sample
    read_rows<true>(o, s, 0, o.d, o.whole());
    __syncthreads();
    if (kScores && warp() == 0) score_gradients<T>(a, b, s);
    for (int e = threadIdx.x; contrastive && e < o.E; e += blockDim.x)
      s.unit[e] = a.normalize ? 1 / at_least(sqrt(s.square[e]), kUnitFloor<A>) : A(1);
    __syncthreads();

    // Calls f(start) for some columns of the vectors after others, with those columns in the tile.
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
        __syncwarp();  // for `radial`: the warp that reads it has written it
      }
    }
    each_tile([&](int64_t start) {
      write_gradient<T, kScores, kContrastive>(a, o, s, b, start, contrastive, pair_grad);
      if constexpr (kScores) add_reference_gradient(a, o, s, start, b == first);
    });
  }
}

// A tile has all columns if that leaves room for a second block on the multiprocessor, whose blocks each take 1024
// bytes more than they ask for.
template <class T>
void launch_backward(const char* name, void (*kernel)(ScoreGradArgs), const ScoreGradArgs& a, Stream stream) {
  launch_on_orbits<T>(name, kernel, grad_blocks(a.B), a, device().shared / 2 - 1024, stream);
}

inline void sum_reference_gradient(const ScoreGradArgs& a, Stream stream) {
  sum_parts({.dtype = a.dtype,
             .parts = grad_blocks(a.B),
             .n = a.d,
             .partial = a.partial,
             .scale = 1,
             .out = a.grad_reference},
            stream);
}

}  // namespace
}  // namespace equifast::cuda
