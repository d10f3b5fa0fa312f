// A tile of ρ(g_e)·S_e x or ρ(g_e)·S_eᵀ x, the one primitive of orbit, act, orbit_average and orbit_inner.
//
// Every thread owns kUnits units of a tile, the same of each member: along the output as it lies in memory, or, where
// many members are turned, in patches that have few rows of the source. A source that lies across that order is read in
// its own, and handed on through shared memory.
#pragma once

#include "cuda/device/members.cuh"
#include "cuda/kernels/resample.h"

namespace equifast::cuda {

// For compute capability 10 and more, ptxas holds more in registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr bool kHoldsMore = true;
#else
constexpr bool kHoldsMore = false;
#endif

// How many blocks registers leave room for; fewer where a thread holds a sum besides what it reads.
template <class T, bool GATHERS, bool SUMS = false>
constexpr int kTileBlocks = !SUMS            ? (sizeof(T) == 8 || GATHERS ? 2 : 4)
                            : sizeof(T) == 8 ? 1
                            : GATHERS        ? 2 - kHoldsMore
                                             : 3 - kHoldsMore;

constexpr int kTileSide = 1 << Tiling::kMost, kWarps = kTileThreads / 32;

template <class A>
struct TileMemory {
  Offsets rows[kTileSide], columns[kTileSide];
  int64_t source[16 * kQuad];  // where in an image the tile's channels begin
  A sums[2][kWarps];
  // Then (channels, rows, columns + 1): with the odd one, neither rows nor columns lie in one bank.
  __device__ A* values() { return reinterpret_cast<A*>(this + 1); }
};

template <class T>
int64_t tile_bytes(const Tiling& t) {
  const int64_t channels = kQuad << t.quads, pitch = (1 << t.columns) + 1;
  return sizeof(TileMemory<Acc<T>>) + (sizeof(Acc<T>) * channels * pitch << t.rows);
}

template <class T>
struct alignas(sizeof(T) == 2 ? 8 : 16) Quad {
  T at[kQuad];
};

template <class T>
using UnitValues = Acc<T>[kUnits][kQuad];

enum class Walk { rows, columns, patches };  // what neighbouring threads share, unless channels lie together

// Within a tile.
struct Place {
  int32_t i, j, q;
  bool live;
};

// GATHERS: whether some element may be a transposed interpolation.
// GATHERS: of transposed interpolations; SUMS: the caller holds a sum besides.
template <class T, bool GATHERS, bool SUMS = false>
class Tile {
 public:
  using A = Acc<T>;

  __device__ Tile(const Transform& w, uint32_t index, Walk owner)
      : w_(w), t_(w.tiling), m_(*shared_memory<TileMemory<A>>()), grid_{w.H, w.W, w.table.border}, owner_(owner) {
    i0_ = index / t_.across % t_.down << t_.rows;
    j0_ = index % t_.across << t_.columns;
    c0_ = index / t_.across / t_.down * kQuad << t_.quads;
  }

  __device__ Place unit(int k) const { return place(k, owner_); }
  __device__ int32_t row(const Place& p) const { return i0_ + p.i; }
  __device__ int32_t column(const Place& p) const { return j0_ + p.j; }
  __device__ int32_t channel(const Place& p, int k) const { return c0_ + kQuad * p.q + k; }

  // What the threads of a block share of a member: where its channels come from, and its positions if it interpolates.
  __device__ void prepare(int32_t e, bool interpolates, const Matrix& m) {
    __syncthreads();  // until all have read what they needed of the last
    for (int n = threadIdx.x; n < 2 * kTileSide + (kQuad << t_.quads); n += kTileThreads) {
      const int32_t at = n % kTileSide, c = n - 2 * kTileSide;
      if (c >= 0) m_.source[c] = c0_ + c < w_.C ? w_.table.channel(e, c0_ + c) * w_.from.c : 0;
      else if (!interpolates) continue;
      else if (n < kTileSide) m_.rows[at] = row_offsets(m, grid_, i0_ + at);
      else m_.columns[at] = column_offsets(m, grid_, j0_ + at);
    }
    __syncthreads();
  }

  // Where a unit reads.
  __device__ Offsets position(const Place& p) const {
    return {m_.columns[p.j].x + m_.rows[p.i].x, m_.columns[p.j].y + m_.rows[p.i].y};
  }

  // Calls f(k, values) for this thread's units of member e of an image.
  template <class F>
  __device__ void member(const T* image, int32_t e, F f) {
    const Action action = w_.table.row(e);
    const bool exact = action.exact();
    prepare(e, !exact, action.matrix());
    const ExactView view(code_of(action), grid_, w_.from.h, w_.from.w);
    const bool staged = exact ? !t_.together && llabs(view.down) < llabs(view.right) : GATHERS || SUMS;
    if (staged) {
      if (exact) stage(image, view, e);
      else stage_interpolated(image, action.matrix(), e);
      __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < kUnits; ++k) {
      const Place p = unit(k);
      A v[kQuad] = {};
      if (p.live) {
        if (staged) {
          for (int c = 0; c < kQuad; ++c) v[c] = m_.values()[slot(kQuad * p.q + c, p.i, p.j)];
        } else {
          if (exact) read(image, view, p, v);
          else if constexpr (!GATHERS && !SUMS) interpolate(image, p, v);
          mix(e, v);
        }
      }
      f(k, v);
    }
  }

  // Pixels of this thread's units as they lie in memory.
  __device__ void load(const T* image, const Layout& s, UnitValues<T>& v) const {
#pragma unroll
    for (int k = 0; k < kUnits; ++k) {
      const Place p = unit(k);
      const T* at = image + row(p) * s.h + column(p) * s.w;
#pragma unroll
      for (int c = 0; c < kQuad; ++c) v[k][c] = p.live && channel(p, c) < w_.C ? widen(at[channel(p, c) * s.c]) : A(0);
    }
  }

  // One unit to where it lies in memory.
  __device__ void store(int k, const A (&v)[kQuad], T* image, const Layout& s) const {
    const Place p = unit(k);
    if (!p.live || channel(p, 0) >= w_.C) return;
    T* at = image + row(p) * s.h + column(p) * s.w + channel(p, 0) * s.c;
    if (s.quads) {
      *reinterpret_cast<Quad<T>*>(at) = {narrow<T>(v[0]), narrow<T>(v[1]), narrow<T>(v[2]), narrow<T>(v[3])};
      return;
    }
#pragma unroll
    for (int c = 0; c < kQuad; ++c)
      if (channel(p, c) < w_.C) at[c * s.c] = narrow<T>(v[c]);
  }

  // Writes an exact member to where it belongs, in whole vectors; of images whose channels don't lie together.
  __device__ void copy(const T* image, int32_t e, T* out, const Layout& to) {
    constexpr int V = Vector<T>::kSize, kEach = kUnits * kQuad / V, kLog = V == 2 ? 1 : V == 4 ? 2 : 3;
    const Permutation p(code_of(w_.table.row(e)));
    prepare(e, false, {});
    // Vectors of the source lie along rows of the tile, or, transposed, along its columns: then tiles are square.
    Vector<T> vectors[kEach] = {};
    const auto lines = [&](int k, int32_t& c, int32_t& line, int32_t& first) {
      const int32_t n = k * kTileThreads + threadIdx.x, width = t_.columns - kLog;
      first = low(n, width) << kLog, line = low(n >> width, t_.rows), c = n >> (width + t_.rows);
      return c < kQuad << t_.quads && c0_ + c < w_.C;
    };
    int32_t c, line, first;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const bool live = lines(k, c, line, first);
      const int32_t i = (p.transposed ? j0_ : i0_) + line, j = (p.transposed ? i0_ : j0_) + first;
      if (!live || i >= w_.H || j >= w_.W) continue;
      const T* from = image + m_.source[c] + (p.reverse_row ? w_.H - 1 - i : i) * w_.from.h;
      const auto v = *reinterpret_cast<const Vector<T>*>(from + (p.reverse_col ? w_.W - V - j : j));
      for (int n = 0; n < V; ++n) vectors[k].at[n] = p.reverse_col ? v.at[V - 1 - n] : v.at[n];
    }
    if (p.transposed) {
#pragma unroll
      for (int k = 0; k < kEach; ++k)
        if (lines(k, c, line, first))
          for (int n = 0; n < V; ++n) m_.values()[slot(c, first + n, line)] = widen(vectors[k].at[n]);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kEach; ++k)
        if (lines(k, c, line, first))
          for (int n = 0; n < V; ++n) vectors[k].at[n] = narrow<T>(m_.values()[slot(c, line, first + n)]);
    }
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const bool live = lines(k, c, line, first);
      if (!live || i0_ + line >= w_.H || j0_ + first >= w_.W) continue;
      *reinterpret_cast<Vector<T>*>(out + (c0_ + c) * to.c + (i0_ + line) * to.h + j0_ + first) = vectors[k];
    }
  }

 private:
  __device__ int code_of(const Action& a) const { return w_.adjoint ? inverse_code(a.code) : a.code; }

  __device__ static int32_t low(int32_t v, int32_t bits) { return v & ((1 << bits) - 1); }

  // Where unit k of this thread lies in a walk over the tile.
  __device__ Place place(int k, Walk walk) const {
    int32_t u = k * kTileThreads + threadIdx.x;
    Place p;
    p.live = u < 1 << (t_.rows + t_.columns + t_.quads);
    p.q = t_.together ? low(u, t_.quads) : u >> (t_.rows + t_.columns);
    if (t_.together) u >>= t_.quads;
    if (walk == Walk::columns) {
      p.i = low(u, t_.rows), p.j = low(u >> t_.rows, t_.columns);
    } else {
      // Patches of 2^a columns and 2^b rows.
      const int32_t a = walk == Walk::rows ? t_.columns : at_most(t_.columns, 3), b = at_most(t_.rows, 5 - a);
      p.j = low(u, a) + (low(u >> (a + b), t_.columns - a) << a);
      p.i = low(u >> a, b) + (low(u >> (t_.columns + b), t_.rows - b) << b);
    }
    p.live = p.live && i0_ + p.i < w_.H && j0_ + p.j < w_.W;
    return p;
  }

  __device__ int32_t slot(int32_t c, int32_t i, int32_t j) const {
    return ((c << t_.rows) + i) * ((1 << t_.columns) + 1) + j;
  }

  // The channels of a unit at a pixel of the source.
  __device__ void pixel(const T* at, const Place& p, A (&v)[kQuad]) const {
    if (w_.from.quads) {
      const auto quad = *reinterpret_cast<const Quad<T>*>(at + m_.source[kQuad * p.q]);
#pragma unroll
      for (int c = 0; c < kQuad; ++c) v[c] = widen(quad.at[c]);
      return;
    }
#pragma unroll
    for (int c = 0; c < kQuad; ++c) v[c] = channel(p, c) < w_.C ? widen(at[m_.source[kQuad * p.q + c]]) : A(0);
  }

  __device__ void read(const T* image, const ExactView& view, const Place& p, A (&v)[kQuad]) const {
    pixel(image + view.origin + row(p) * view.down + column(p) * view.right, p, v);
  }

  // As Corners::of, of all channels at once.
  __device__ void interpolate(const T* image, const Place& p, A (&v)[kQuad]) const {
    const Corners<A> at(m_.rows[p.i], m_.columns[p.j], grid_);
    const T* first = image + at.i * w_.from.h + at.j * w_.from.w;
    const int64_t below = at.down * w_.from.h, next = at.right * w_.from.w;
    A v00[kQuad], v01[kQuad], v10[kQuad], v11[kQuad];
    pixel(first, p, v00), pixel(first + next, p, v01);
    pixel(first + below, p, v10), pixel(first + below + next, p, v11);
#pragma unroll
    for (int c = 0; c < kQuad; ++c) v[c] = (v00[c] * at.w00 + v11[c] * at.w11) + (v01[c] * at.w01 + v10[c] * at.w10);
  }

  // Into shared memory, along the source.
  __device__ void stage(const T* image, const ExactView& view, int32_t e) {
#pragma unroll
    for (int k = 0; k < kUnits; ++k) {
      const Place p = place(k, Walk::columns);
      A v[kQuad] = {};
      if (!p.live) continue;
      read(image, view, p, v);
      mix(e, v);
      for (int c = 0; c < kQuad; ++c) m_.values()[slot(kQuad * p.q + c, p.i, p.j)] = v[c];
    }
  }

  // The same of an element that interpolates: a transposed one is much code, and others take many registers.
  __device__ void stage_interpolated(const T* image, const Matrix& m, int32_t e) {
#pragma unroll(GATHERS ? 1 : 2)
    for (int k = 0; k < kUnits; ++k) {
      const Place p = unit(k);
      if (!p.live) continue;
      A v[kQuad] = {};
      if constexpr (GATHERS) {
        each_reader<A>(m, grid_, row(p), column(p), [&](int32_t i, int32_t j, A weight) {
          A x[kQuad];
          pixel(image + i * w_.from.h + j * w_.from.w, p, x);
          for (int c = 0; c < kQuad; ++c) v[c] += weight * x[c];
        });
      } else {
        interpolate(image, p, v);
      }
      mix(e, v);
      for (int c = 0; c < kQuad; ++c) m_.values()[slot(kQuad * p.q + c, p.i, p.j)] = v[c];
    }
  }

  __device__ void mix(int32_t e, A (&v)[kQuad]) const {
    if (!w_.table.mixes) return;
    A m[2][2];
    for (int n = 0; n < 4; ++n) m[n / 2][n % 2] = static_cast<A>(w_.table.mixing(e, n / 2, n % 2));
#pragma unroll
    for (int c = 0; c < kQuad; c += 2) {
      const A first = v[c], second = v[c + 1];
      v[c] = m[0][0] * first + m[0][1] * second;
      v[c + 1] = m[1][0] * first + m[1][1] * second;
    }
  }

  const Transform& w_;
  const Tiling& t_;
  TileMemory<A>& m_;
  Grid grid_;
  Walk owner_;
  int32_t i0_, j0_, c0_;
};

// One tile of a weighted member, from an image to an image.
template <class T, bool GATHERS>
__device__ void write_member(const WarpArgs& a, uint32_t tile, const T* image, int32_t e, const Acc<T>* weight,
                             T* out) {
  const bool exact = a.transform.table.row(e).exact();
  Tile<T, GATHERS> t(a.transform, tile, exact ? Walk::rows : Walk::patches);
  if (exact && a.transform.from.rows && a.to.rows && !weight && !a.transform.table.mixes)
    return t.copy(image, e, out, a.to);
  t.member(image, e, [&](int k, Acc<T>(&v)[kQuad]) {
    if (weight)
      for (int c = 0; c < kQuad; ++c) v[c] *= *weight;
    t.store(k, v, out, a.to);
  });
}

// The sum of v over a block, to its first thread; `which` of two that may follow each other without a barrier.
template <class A>
__device__ A block_sum(A v, TileMemory<A>& m, int which) {
  for (int lanes = 16; lanes > 0; lanes /= 2) v += __shfl_xor_sync(~0u, v, lanes);
  if (threadIdx.x % 32 == 0) m.sums[which][threadIdx.x / 32] = v;
  __syncthreads();
  A sum = 0;
  if (threadIdx.x == 0)
    for (int k = 0; k < kWarps; ++k) sum += m.sums[which][k];
  return sum;
}

// Launches the kernel of a dtype that gathers or not.
#define EQUIFAST_LAUNCH_WARP(name, kernel, transform, blocks, args, stream)                   \
  visit((transform).dtype, [&]<class T>(T) {                                                  \
    const bool gathers = (transform).adjoint && (transform).table.interpolates;               \
    const auto run = gathers ? kernel<T, true> : kernel<T, false>;                            \
    launch(name, run, blocks, kTileThreads, tile_bytes<T>((transform).tiling), stream, args); \
  })

}  // namespace equifast::cuda
