// orbit_logit_scores: a score of the logits of each member, softmax over the group and arg max, and their gradient.
//
// A block has one sample, and a warp takes one row of logits at a time. It reads a row from memory once, and again from
// the cache:
// 1. Find the largest logits.
// 2. Sum the exponentials of the logits, relative to the largest one that counts.
// 3. Backward: write the gradient.
#include "cuda/device/vectors_forward.cuh"

namespace equifast::cuda {
namespace {

// How many blocks a multiprocessor should hold at least. Left to itself, ptxas spills to fit more of them on sm_90a.
constexpr int kResident = 2;

// Where a warp reads a row of logits.
template <class T>
struct Logits {
  const T* row;
  int64_t K;
  bool aligned;  // the row can be read in whole Vectors

  __device__ Logits(const LogitScoreArgs& a, int64_t row_id)
      : row(static_cast<const T*>(a.logits) + row_id * a.row),
        K(a.K),
        aligned(reinterpret_cast<uintptr_t>(a.logits) % 16 == 0 && a.row % Vector<T>::kSize == 0 &&
                a.K % Vector<T>::kSize == 0) {}

  // Calls f.operator()<kCount>(k, z) for kCount neighbouring logits z after others, from k on: those of this lane.
  template <class F>
  __device__ void by(F f) const {
    aligned ? each<Vector<T>::kSize>(f) : each<1>(f);
  }

  // Calls f(k, z) for the logits of this lane.
  template <class F>
  __device__ void one_by_one(F f) const {
    by([&]<int kCount>(int64_t k, const Acc<T>(&z)[kCount]) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) f(k + i, z[i]);
    });
  }

 private:
  template <int kCount, class F>
  __device__ void each(F f) const {
#pragma unroll 4
    for (int64_t k = lane() * kCount; k < K; k += kLanes * kCount) {
      Acc<T> z[kCount];
      load<kCount>(row + k, z);
      f.template operator()<kCount>(k, z);
    }
  }
};

// x, or 0 for an infinity: what exponentials are taken relative to.
template <class A>
__device__ A or_zero(A x) {
  return is_finite(x) ? x : A(0);
}

// The least of a number over a warp, for all of its lanes.
__device__ inline int64_t warp_min(int64_t x) {
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const int64_t partner = __shfl_xor_sync(kAll, x, step);
    x = partner < x ? partner : x;
  }
  return x;
}

// What a warp measures of a row. Of the logits, the one at `place` stands against the others: the largest, or that of a
// class. Scores by energy and entropy have none, so the others are all. `top` is the largest of the others, `total` the
// sum of their exponentials relative to it, and `level` the entropy's Σ p·log p.
template <class T>
struct Row {
  using A = Acc<T>;
  A top, total = 0, level = 0, score;
  int64_t place;

  __device__ Row(const Logits<T>& logits, LogitScore kind, int64_t index) {
    const bool pairs = kind == LogitScore::confidence || kind == LogitScore::margin;
    A first = -INFINITY, second = -INFINITY, poison = 0;  // which is NaN if a logit is
    place = kind == LogitScore::of_class ? index : -1;
    int64_t at = logits.K;
    logits.one_by_one([&](int64_t k, A z) {
      if (z != z) poison = NAN;
      if (k == place) return;
      const A lesser = z > first ? first : z;
      if (lesser > second) second = lesser;
      if (z > first) first = z, at = k;
    });
    poison = warp_sum(poison);
    for (int step = kLanes / 2; step > 0; step /= 2) {
      const A other = __shfl_xor_sync(kAll, first, step), its_second = __shfl_xor_sync(kAll, second, step);
      const int64_t its_place = __shfl_xor_sync(kAll, at, step);
      const bool better = other > first || (other == first && its_place < at);
      const A lesser = better ? first : other;
      second = second > its_second ? second : its_second;
      second = second > lesser ? second : lesser;
      if (better) first = other, at = its_place;
    }
    A own = 0;
    if (pairs) place = at, own = first, top = second;
    else top = first;
    if (kind == LogitScore::of_class) own = index >= 0 && index < logits.K ? widen(logits.row[index]) : A(NAN);
    score = own - top + poison;
    if (kind == LogitScore::margin) return;

    const A relative = or_zero(top);
    A tilt = 0;
    logits.one_by_one([&](int64_t k, A z) {
      if (k == place) return;
      const A weight = exp(z - relative);
      total += weight;
      if (kind == LogitScore::negative_entropy && z > A(-INFINITY)) tilt += weight * (z - relative);
    });
    total = warp_sum(total);
    const A scale = log(total);
    if (kind == LogitScore::negative_entropy) level = warp_sum(tilt) / total - scale;
    if (kind == LogitScore::negative_entropy) score = level + poison;
    else if (kind == LogitScore::energy) score = relative + scale + poison;
    else score = own - relative - scale + poison;
  }
};

template <class T>
__global__ void __launch_bounds__(kMaxThreads, kResident)
    orbit_logit_scores_kernel(const __grid_constant__ LogitScoreArgs a) {
  using A = Acc<T>;
  const int64_t b = blockIdx.x;
  A* const scores = shared_memory<A>();  // (E,)
  for (int e = warp(); e < a.E; e += warps()) {
    const A score = Row<T>(Logits<T>(a, e * a.B + b), a.score, a.index ? a.index[b] : 0).score;
    if (lane() == 0) scores[e] = score;
  }
  __syncthreads();
  if (warp() == 0) choose<A>(a, b, scores);
}

// The gradient of the activation of element e, directly and through the probabilities; 0 in a sample that fell back,
// whose probabilities are NaN. One warp computes it, for all of its lanes.
template <class A>
__device__ A activation_gradient(const LogitScoreArgs& a, int64_t b, int e) {
  const auto at = [&](const Gradient& g, int i) { return static_cast<const A*>(g.data)[b * g.sample + i * g.element]; };
  const A* p = static_cast<const A*>(a.probabilities) + b * a.E;
  A grad = 0, mean = 0;
  if (a.grad_activations.data) grad += at(a.grad_activations, e);
  if (p[e] != p[e]) return 0;
  if (!a.grad_probabilities.data) return grad;
  for (int i = lane(); i < a.E; i += kLanes) mean += p[i] * at(a.grad_probabilities, i);
  mean = warp_sum(mean);
  return grad + static_cast<A>(a.beta) * p[e] * (at(a.grad_probabilities, e) - mean);
}

// No gradient passes through a score that is not finite, nor in a sample that fell back.
template <class T>
__global__ void __launch_bounds__(kMaxThreads, kResident)
    orbit_logit_scores_backward_kernel(const __grid_constant__ LogitScoreArgs a) {
  using A = Acc<T>;
  const int64_t b = blockIdx.x;
  const bool has_own = a.score != LogitScore::energy && a.score != LogitScore::negative_entropy;
  for (int e = warp(); e < a.E; e += warps()) {
    const Logits<T> logits(a, e * a.B + b);
    const Row<T> row(logits, a.score, a.index ? a.index[b] : 0);
    const A given = activation_gradient<A>(a, b, e), grad = is_finite(row.score) ? given : A(0);
    const A factor = grad / row.total, relative = or_zero(row.top), scale = log(row.total) + row.level;
    int64_t second = logits.K;
    if (a.score == LogitScore::margin) {
      logits.one_by_one([&](int64_t k, A z) {
        if (z == row.top && k != row.place && k < second) second = k;
      });
      second = warp_min(second);
    }
    T* const out = static_cast<T*>(a.grad_logits) + (e * a.B + b) * a.K;
    logits.by([&]<int kCount>(int64_t k, const A(&z)[kCount]) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        A g = 0;
        if (grad == 0) g = 0;
        else if (has_own && k + i == row.place) g = grad;
        else if (a.score == LogitScore::margin) g = k + i == second ? -grad : A(0);
        else if (z[i] > A(-INFINITY)) {
          g = factor * exp(z[i] - relative);
          if (a.score == LogitScore::negative_entropy) g *= z[i] - relative - scale;
          else if (has_own) g = -g;
        }
        out[k + i] = narrow<T>(g);
      }
    });
  }
}

template <class T>
void launch_on_rows(const char* name, void (*kernel)(LogitScoreArgs), const LogitScoreArgs& a, int64_t shared,
                    Stream stream) {
  launch(name, kernel, a.B, a.E > 4 ? kMaxThreads : kMaxThreads / 2, shared, stream, a);
}

}  // namespace

void launch_orbit_logit_scores(const LogitScoreArgs& a, Stream stream) {
  visit(a.dtype, [&]<class T>(T) {
    launch_on_rows<T>("orbit_logit_scores", orbit_logit_scores_kernel<T>, a, a.E * sizeof(Acc<T>), stream);
  });
}

void launch_orbit_logit_scores_backward(const LogitScoreArgs& a, Stream stream) {
  visit(a.dtype, [&]<class T>(T) {
    launch_on_rows<T>("orbit_logit_scores_backward", orbit_logit_scores_backward_kernel<T>, a, 0, stream);
  });
}

}  // namespace equifast::cuda
