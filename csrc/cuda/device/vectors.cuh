// What the kernels on vectors have in common. A block has one sample at a time: its E vectors pass through shared
// memory, and a warp takes one vector at a time.
#pragma once

#include "cuda/device/pixels.cuh"
#include "cuda/kernels/scores.h"
#include "cuda/runtime/sum_parts.h"

namespace equifast::cuda {
namespace {

constexpr int kLanes = 32;
constexpr unsigned kAll = 0xFFFFFFFF;
constexpr int kMaxThreads = 256;

// How many blocks a multiprocessor should hold at least. No thread spills with the registers that this leaves
// (docs/cuda_kernels.md).
template <class T>
constexpr int kBlocks = sizeof(T) == 8 ? 2 : 3;

template <class A>
constexpr A kNormFloor = A(1e-8);  // the default of F.cosine_similarity
template <class A>
constexpr A kUnitFloor = A(1e-12);  // the default of F.normalize

__device__ inline int lane() { return threadIdx.x % kLanes; }
__device__ inline int warp() { return threadIdx.x / kLanes; }
__device__ inline int warps() { return blockDim.x / kLanes; }

// x, but at least `floor`. NaN stays NaN.
template <class A>
__device__ A at_least(A x, A floor) {
  return x < floor ? floor : x;
}

// factor·x, but 0 for a factor of 0 even if x is ∞ or NaN.
template <class A>
__device__ A times(A factor, A x) {
  return factor != 0 ? factor * x : A(0);
}

template <class A>
__device__ bool is_finite(A x) {
  return fabs(x) < A(INFINITY);
}

// beta·score, but −∞ for a score of −∞ whatever beta is.
template <class A>
__device__ A logit_of(A score, A beta) {
  return score == A(-INFINITY) ? score : beta * score;
}

// The sum over a warp, for all of its lanes.
template <class A>
__device__ A warp_sum(A x) {
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}

// Four sums over a warp at little more than the cost of one. Lanes 8j … 8j + 7 get the sum of x[j].
template <class A>
__device__ A warp_sums(const A (&x)[4]) {
  const bool upper = lane() & 16, odd = lane() & 8;
  A first = upper ? x[2] : x[0], second = upper ? x[3] : x[1];
  first += __shfl_xor_sync(kAll, upper ? x[0] : x[2], 16);
  second += __shfl_xor_sync(kAll, upper ? x[1] : x[3], 16);
  A sum = odd ? second : first;
  sum += __shfl_xor_sync(kAll, odd ? first : second, 8);
  for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
  return sum;
}

template <class A>
__device__ A warp_max(A x) {
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const A partner = __shfl_xor_sync(kAll, x, step);
    x = partner > x ? partner : x;
  }
  return x;
}

// What a block shares.
template <class A>
struct Shared {
  A* tile;              // (E, width): some columns of the vectors
  A *product, *square;  // (E,): the inner product of each vector with the reference, and with itself
  A *across, *along;    // (E,), backward: see score_gradients
  A *unit, *radial;     // (E,), backward: 1 over the length, if vectors are normalized; see add_radial
  A* reference_square;  // (): the inner product of the reference with itself
  A* along_reference;   // (), backward: see score_gradients
  A* sum;               // (warps,)

  // How many numbers these are.
  static int64_t numbers(int64_t E, int64_t width) { return E * width + 6 * E + 2 + kMaxThreads / kLanes; }

  __device__ Shared(int E, int width) : tile(shared_memory<A>()) {
    product = tile + E * width;
    square = product + E;
    across = square + E;
    along = across + E;
    unit = along + E;
    radial = unit + E;
    reference_square = radial + E;
    along_reference = reference_square + 1;
    sum = along_reference + 1;
  }
};

// Where a block reads the vectors of sample b.
template <class T>
struct Orbit {
  const T *vectors, *reference;  // the reference is null without scores
  int64_t step;                  // values from one element's vector to the next
  int E, width;
  int64_t d;
  bool aligned;  // everything can be read in whole Vectors

  __device__ Orbit(const VectorArgs& a, int64_t b, bool has_reference)
      : vectors(static_cast<const T*>(a.vectors) + b * a.row),
        reference(has_reference ? static_cast<const T*>(a.reference) : nullptr),
        step(a.B * a.row),
        E(static_cast<int>(a.E)),
        width(a.width),
        d(a.d) {
    constexpr int kSize = Vector<T>::kSize;
    aligned = reinterpret_cast<uintptr_t>(a.vectors) % 16 == 0 && a.row % kSize == 0 && d % kSize == 0 &&
              width % kSize == 0 && reinterpret_cast<uintptr_t>(reference) % 16 == 0;
  }

  // Whether all columns fit in the tile at once; and how many there are from `start` on.
  __device__ bool whole() const { return width >= d; }
  __device__ int columns(int64_t start) const { return static_cast<int>(d - start < width ? d - start : width); }
};

// Reads kCount values: one, or a Vector of them.
template <int kCount, class T>
__device__ void load(const T* from, Acc<T> (&to)[kCount]) {
  if constexpr (kCount == 1) {
    to[0] = widen(*from);
  } else {
    const auto v = *reinterpret_cast<const Vector<T>*>(from);
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = widen(v.at[i]);
  }
}

// Writes kCount values to shared memory.
template <int kCount, class A>
__device__ void store(const A (&from)[kCount], A* to) {
  if constexpr (kCount == 1) {
    *to = from[0];
  } else {
    constexpr int kSize = Vector<A>::kSize;
#pragma unroll
    for (int i = 0; i < kCount; i += kSize) {
      Vector<A> v;
#pragma unroll
      for (int j = 0; j < kSize; ++j) v.at[j] = from[i + j];
      *reinterpret_cast<Vector<A>*>(to + i) = v;
    }
  }
}

// read_rows, kCount columns at a time.
template <int kCount, bool kMeasure, class T>
__device__ void read_rows_by(const Orbit<T>& o, const Shared<Acc<T>>& s, int64_t start, int64_t count, bool keep) {
  using A = Acc<T>;
  for (int e = warp(); e < o.E; e += warps()) {
    const T* __restrict__ row = o.vectors + e * o.step + start;
    const T* __restrict__ reference = o.reference ? o.reference + start : nullptr;
    A* __restrict__ tile = s.tile + e * o.width;
    A sums[4] = {};  // ⟨v, reference⟩, ⟨v, v⟩, ⟨reference, reference⟩; one is unused
#pragma unroll 4
    for (int64_t k = lane() * kCount; k < count; k += kLanes * kCount) {
      A v[kCount], r[kCount];
      load<kCount>(row + k, v);
      if (keep) store<kCount>(v, tile + k);
      if constexpr (kMeasure) {
        if (reference) {
          load<kCount>(reference + k, r);
#pragma unroll
          for (int i = 0; i < kCount; ++i) {
            sums[0] = fma(v[i], r[i], sums[0]);
            sums[2] = fma(r[i], r[i], sums[2]);
          }
        }
#pragma unroll
        for (int i = 0; i < kCount; ++i) sums[1] = fma(v[i], v[i], sums[1]);
      }
    }
    if constexpr (kMeasure) {
      const A sum = warp_sums(sums);
      A* const total = lane() == 0 ? s.product + e : lane() == 8 ? s.square + e : s.reference_square;
      if (lane() == 0 || lane() == 8 || (lane() == 16 && e == 0)) *total = start > 0 ? *total + sum : sum;
    }
  }
}

// Reads `count` columns of each vector, from `start` on. With kMeasure, adds up the inner products with the reference
// and with itself in `product` and `square`. With `keep`, writes the columns to the tile.
template <bool kMeasure, class T>
__device__ void read_rows(const Orbit<T>& o, const Shared<Acc<T>>& s, int64_t start, int64_t count, bool keep) {
  if (o.aligned) read_rows_by<Vector<T>::kSize, kMeasure>(o, s, start, count, keep);
  else read_rows_by<1, kMeasure>(o, s, start, count, keep);
}

// The largest of f(0) … f(E − 1), and the sum of their exponentials relative to it. One warp computes them.
template <class A>
struct Exponentials {
  A top, sum;

  template <class F>
  __device__ Exponentials(int E, F f) {
    A largest = -INFINITY, partial = 0;
    for (int e = lane(); e < E; e += kLanes) {
      const A x = f(e);
      largest = x > largest ? x : largest;
    }
    top = warp_max(largest);
    for (int e = lane(); e < E; e += kLanes) partial += exp(f(e) - top);
    sum = warp_sum(partial);
  }
};

// The id that a sample should choose.
__device__ inline int64_t wanted(const VectorArgs& a, int64_t b) { return a.target ? a.target[b * a.target_step] : 0; }

// The bytes of a tile that has not all columns of the vectors. A block may have as many without asking for more.
constexpr int64_t kTile = 48 << 10;

// How many columns of E vectors a block has in its tile at once: all d of them, if they take `most` bytes at most; else
// as many as fit in kTile.
template <class A>
int width_for(int64_t E, int64_t d, int64_t most) {
  const auto room = [&](int64_t bytes) { return (bytes / int64_t(sizeof(A)) - Shared<A>::numbers(E, 0)) / E; };
  if (d <= room(most)) return static_cast<int>(d);
  const int64_t width = room(kTile), unit = width >= kLanes ? kLanes : 8;
  return static_cast<int>(width >= unit ? width / unit * unit : 1);
}

// Launches a kernel of dtype T, with blocks whose tile has all columns if they take `most` bytes at most. Without a
// tile, most = 0. A warp has one vector at a time, so small groups need fewer warps.
template <class T, class Args>
void launch_on_orbits(const char* name, void (*kernel)(Args), int64_t blocks, Args a, int64_t most, Stream stream) {
  a.width = most > 0 ? width_for<Acc<T>>(a.E, a.d, most) : 0;
  const int64_t shared = Shared<Acc<T>>::numbers(a.E, a.width) * sizeof(Acc<T>);
  launch(name, kernel, blocks, a.E > 4 ? kMaxThreads : kMaxThreads / 2, shared, stream, a);
}

}  // namespace
}  // namespace equifast::cuda
