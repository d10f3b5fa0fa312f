// Scores, choice and losses, from one reading of the vectors.
#pragma once

#include "cuda/device/vectors.cuh"

namespace equifast::cuda {
namespace {

// Writes activations, probabilities and the id of the largest score, the lowest of several. One warp does it. A score
// of −∞ masks its element. A sample with a score of NaN or +∞, or with scores of −∞ alone, gets the identity and NaN
// probabilities. What decides that are the scores as they are returned, in dtype T.
template <class T, class Args>
__device__ void choose(const Args& a, int64_t b, const Acc<T>* score) {
  using A = Acc<T>;
  const int E = static_cast<int>(a.E);
  const A beta = static_cast<A>(a.beta);
  A best = -INFINITY;
  int id = E, unusable = 0, unmasked = 0;
  for (int e = lane(); e < E; e += kLanes) {
    const A returned = widen(narrow<T>(score[e]));
    unusable += !(returned < A(INFINITY));
    unmasked += returned > A(-INFINITY);
    if (score[e] > best) best = score[e], id = e;
  }
  const bool usable = warp_sum(unusable) == 0 && warp_sum(unmasked) > 0;
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const A partner = __shfl_xor_sync(kAll, best, step);
    const int partner_id = __shfl_xor_sync(kAll, id, step);
    if (partner > best || (partner == best && partner_id < id)) best = partner, id = partner_id;
  }
  const auto logit = [&](int e) { return logit_of(score[e], beta); };
  const Exponentials<A> all(E, logit);
  for (int e = lane(); e < E; e += kLanes) {
    const A p = usable ? exp(logit(e) - all.top) / all.sum : A(NAN);
    static_cast<T*>(a.activations)[b * E + e] = narrow<T>(score[e]);
    static_cast<T*>(a.probabilities)[b * E + e] = narrow<T>(p);
  }
  if (lane() == 0) a.element[b] = usable ? id : 0;
}

// The cross entropy of the activations, as they are returned, with the target. NaN if the target is no element. One
// warp computes it.
template <class T>
__device__ Acc<T> prior_loss(const ScoreArgs& a, int64_t b, const Acc<T>* score) {
  using A = Acc<T>;
  const A beta = static_cast<A>(a.prior_beta);
  const int64_t target = wanted(a, b);
  const auto logit = [&](int64_t e) { return logit_of(widen(narrow<T>(score[e])), beta); };
  const Exponentials<A> all(static_cast<int>(a.E), logit);
  const A chosen = target >= 0 && target < a.E ? logit(target) : A(NAN);
  return log(all.sum) + (all.top - chosen);
}

// Writes the scores, from the inner products that were measured, and what follows from them. One warp does it.
template <class T>
__device__ void write_scores(const ScoreArgs& a, int64_t b, const Shared<Acc<T>>& s, bool prior) {
  using A = Acc<T>;
  const A length = at_least(sqrt(*s.reference_square), kNormFloor<A>);
  if (a.cosine)
    for (int e = lane(); e < a.E; e += kLanes) s.product[e] /= at_least(sqrt(s.square[e]), kNormFloor<A>) * length;
  __syncwarp();
  choose<T>(a, b, s.product);
  if (!prior) return;
  const A loss = prior_loss<T>(a, b, s.product);
  if (lane() == 0) static_cast<A*>(a.partial_prior)[b] = loss;
}

// Adds the inner products of some columns to the Gram matrix: to its lower half, which the last columns mirror. With
// the last columns, also returns what this thread has of Σ |⟨v_e, v_h⟩|. A warp has four products of one row at a time.
template <class T>
__device__ Acc<T> add_products(const Orbit<T>& o, const Shared<Acc<T>>& s, Acc<T>* gram, int64_t start,
                               bool normalize) {
  using A = Acc<T>;
  const int count = o.columns(start);
  const bool last = start + count >= o.d;
  A total = 0;
  for (int e = warp(); e < o.E; e += warps()) {
    A* const gram_row = gram + int64_t(e) * o.E;
    const A length = normalize ? at_least(sqrt(s.square[e]), kUnitFloor<A>) : A(1);
    if (lane() == 0) gram_row[e] = 0;
    for (int h = 0; h < e; h += 4) {
      const A* __restrict__ v = s.tile + e * o.width;
      const A* rows[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) rows[i] = s.tile + (h + i < e ? h + i : e) * o.width;
      A sums[4] = {};
      for (int k = lane(); k < count; k += kLanes)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[i] = fma(v[k], rows[i][k], sums[i]);
      A product = warp_sums(sums);
      const int column = h + lane() / 8;
      if (lane() % 8 != 0 || column >= e) continue;
      if (start > 0) product += gram_row[column];
      if (last) {
        if (normalize) product = product / length / at_least(sqrt(s.square[column]), kUnitFloor<A>);
        gram[int64_t(column) * o.E + e] = product;
        total += 2 * fabs(product);
      }
      gram_row[column] = product;
    }
  }
  return total;
}

// Everything that an op computes from the vectors of sample blockIdx.x.
//
// 1. Read the vectors, and measure them. For the contrastive loss, read some columns after others, which add to the
//    Gram matrix.
// 2. Sum the loss over the block.
// 3. Write scores, probabilities and choice.
template <class T, bool kScores, bool kContrastive>
__device__ void forward(const ScoreArgs& a) {
  using A = Acc<T>;
  const int64_t b = blockIdx.x;
  const Orbit<T> o(a, b, kScores);
  const Shared<A> s(o.E, kContrastive ? o.width : 0);
  A total = 0;
  if constexpr (kContrastive) {
    A* gram = static_cast<A*>(a.gram) + b * o.E * o.E;
    int64_t start = 0;
    do {
      if (start > 0) __syncthreads();  // until all threads have read the tile
      read_rows<true>(o, s, start, o.columns(start), true);
      __syncthreads();
      total += add_products(o, s, gram, start, a.normalize);
      start += o.width;
    } while (start < o.d);
    total = warp_sum(total);
    if (lane() == 0) s.sum[warp()] = total;
  } else {
    read_rows<true>(o, s, 0, o.d, false);
  }
  __syncthreads();
  if constexpr (kContrastive) {
    if (threadIdx.x == 0) {
      for (int i = 1; i < warps(); ++i) total += s.sum[i];
      static_cast<A*>(a.partial_contrastive)[b] = total;
    }
  }
  if (kScores && warp() == 0) write_scores<T>(a, b, s, kContrastive);
}

template <class T>
void launch_forward(const char* name, void (*kernel)(ScoreArgs), const ScoreArgs& a, bool tile, Stream stream) {
  launch_on_orbits<T>(name, kernel, a.B, a, tile ? kTile : 0, stream);
}

// The mean of a loss, from what each sample adds to it.
inline void mean_loss(const ScoreArgs& a, const void* partial, int64_t terms, void* loss, Stream stream) {
  sum_parts({.dtype = a.dtype,
             .parts = a.B,
             .n = 1,
             .partial = partial,
             .scale = 1.0 / static_cast<double>(a.B * terms),
             .out = loss},
            stream);
}

}  // namespace
}  // namespace equifast::cuda
