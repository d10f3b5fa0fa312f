// A tile of ρ(g_e)·S_e x, or of ρ(g_e)·S_eᵀ x: the one primitive of orbit, act, orbit_average, orbit_inner and
// angle_inner.
//
// Every thread owns kUnits units of a tile, the same ones of each member. Neighbouring threads own neighbours in the
// memory of the output; or, where members interpolate, units of a patch, which reads few rows of the source. A source
// that lies across this order is read in its own order, and handed on through shared memory.
#pragma once

#include "cuda/device/members.cuh"
#include "cuda/kernels/resample.h"

namespace equifast::cuda {

// ptxas holds more values in registers for compute capability 10 and above.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr bool kHoldsMore = true;
#else
constexpr bool kHoldsMore = false;
#endif

// How many blocks of kTileThreads a multiprocessor holds without spills: it is registers that decide
// (docs/cuda_kernels.md). There are fewer blocks where a thread holds a sum besides what it reads.
// GATHERS: elements may be transposed interpolations. SUMS: the caller holds a sum.
template <class T, bool GATHERS, bool SUMS = false>
constexpr int kTileBlocks = !SUMS            ? (sizeof(T) == 8 || GATHERS ? 2 : 4)
                            : sizeof(T) == 8 ? 1
                            : GATHERS        ? 2 - kHoldsMore
                                             : 3 - kHoldsMore;

constexpr int kTileSide = 1 << Tiling::kLog2Side, kWarps = kTileThreads / 32;

// What a block shares.
template <class A>
struct TileMemory {
  Offsets rows[kTileSide], columns[kTileSide];  // of the positions that the tile reads, if an element interpolates
  int64_t source[kQuad << Tiling::kLog2Quads];  // where in an image the channels of the tile begin
  A sums[2][kWarps];                            // of block_sum
  // Behind it lie the values of the tile, (channels, rows, columns + 1). With an odd number of columns, neither the
  // values of a row nor those of a column lie in one bank.
  __device__ A* values() { return reinterpret_cast<A*>(this + 1); }
};

// The shared memory of a block.
template <class T>
int64_t tile_bytes(const Tiling& t) {
  const int64_t channels = kQuad << t.log2_quads, pitch = (1 << t.log2_columns) + 1;
  return sizeof(TileMemory<Acc<T>>) + (sizeof(Acc<T>) * channels * pitch << t.log2_rows);
}

// The pixels of a unit, which are read and written at once where addresses allow.
template <class T>
struct alignas(sizeof(T) == 2 ? 8 : 16) Quad {
  T at[kQuad];
};

// The values of a thread's units.
template <class T>
using UnitValues = Acc<T>[kUnits][kQuad];

// In what order the threads of a block take the units of a tile: neighbouring threads share a row, a column or a patch.
// Where channels are together, quads of channels come before that.
enum class Walk { rows, columns, patches };

// Where a unit lies within a tile.
struct Place {
  int32_t i, j, q;  // row, column, quad of channels
  bool live;        // it lies in the tile and in the image
};

template <class T, bool GATHERS, bool SUMS = false>
class Tile {
 public:
  using A = Acc<T>;

  __device__ Tile(const Resample& resample, uint32_t index, Walk owner)
      : r_(resample),
        t_(resample.tiling),
        m_(*shared_memory<TileMemory<A>>()),
        grid_{r_.H, r_.W, r_.table.border},
        owner_(owner) {
    i0_ = index / t_.column_tiles % t_.row_tiles << t_.log2_rows;
    j0_ = index % t_.column_tiles << t_.log2_columns;
    c0_ = index / t_.column_tiles / t_.row_tiles * kQuad << t_.log2_quads;
  }

  __device__ Place unit(int k) const { return place(k, owner_); }
  __device__ int32_t row(const Place& p) const { return i0_ + p.i; }
  __device__ int32_t column(const Place& p) const { return j0_ + p.j; }
  __device__ int32_t channel(const Place& p, int k) const { return c0_ + kQuad * p.q + k; }

  // Writes to shared memory what the threads of a block need of member e: where its channels come from, and, if it
  // interpolates by the matrix of an action, the offsets of its positions. Few warps do the latter, in float64.
  __device__ void prepare(int32_t e, bool interpolates, const Action& action) {
    static_assert(2 * kTileSide + (kQuad << Tiling::kLog2Quads) <= kTileThreads);
    __syncthreads();  // until all threads have read what they needed of the last member
    const int32_t n = threadIdx.x, line = n % kTileSide, c = n - 2 * kTileSide;
    if (c >= 0 && c < kQuad << t_.log2_quads)
      m_.source[c] = c0_ + c < r_.C ? r_.table.channel(e, c0_ + c) * r_.in_layout.c : 0;
    if (c < 0 && interpolates) {
      const Matrix m = action.matrix();
      if (n < kTileSide) m_.rows[line] = row_offsets(m, grid_, i0_ + line);
      else m_.columns[line] = column_offsets(m, grid_, j0_ + line);
    }
    __syncthreads();
  }

  // The position that a unit reads.
  __device__ Offsets position(const Place& p) const {
    return {m_.columns[p.j].x + m_.rows[p.i].x, m_.columns[p.j].y + m_.rows[p.i].y};
  }

  // Calls f(k, values) for the units k of this thread, of member e of an image; values: (kQuad,).
  template <class F>
  __device__ void member(const T* image, int32_t e, F f) {
    const Action action = r_.table.action(e);
    const bool exact = r_.table.exact(e);
    prepare(e, !GATHERS && !exact, action);
    const ExactView view(code_of(action), grid_, r_.in_layout.h, r_.in_layout.w);
    const bool staged = exact ? !t_.channels_together && llabs(view.down) < llabs(view.right) : GATHERS || SUMS;
    if (staged) {
      if (exact) stage(image, view, e);
      else stage_interpolated(image, action, e);
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

  // Reads the pixels of this thread's units from images of layout s.
  __device__ void load(const T* image, const Layout& s, UnitValues<T>& v) const {
#pragma unroll
    for (int k = 0; k < kUnits; ++k) {
      const Place p = unit(k);
      const T* at = image + row(p) * s.h + column(p) * s.w;
#pragma unroll
      for (int c = 0; c < kQuad; ++c) v[k][c] = p.live && channel(p, c) < r_.C ? widen(at[channel(p, c) * s.c]) : A(0);
    }
  }

  // Writes unit k to images of layout s.
  __device__ void store(int k, const A (&v)[kQuad], T* image, const Layout& s) const {
    const Place p = unit(k);
    if (!p.live || channel(p, 0) >= r_.C) return;
    T* at = image + row(p) * s.h + column(p) * s.w + channel(p, 0) * s.c;
    if (s.vector_quads) {
      *reinterpret_cast<Quad<T>*>(at) = {narrow<T>(v[0]), narrow<T>(v[1]), narrow<T>(v[2]), narrow<T>(v[3])};
      return;
    }
#pragma unroll
    for (int c = 0; c < kQuad; ++c)
      if (channel(p, c) < r_.C) at[c * s.c] = narrow<T>(v[c]);
  }

  // Writes an exact member in whole vectors of a row. Channels must not be together.
  // 1. Read vectors along the rows of the source. 2. For a quarter turn, transpose through shared memory. 3. Write
  // vectors along the rows of the output.
  __device__ void copy(const T* image, int32_t e, T* out, const Layout& to) {
    constexpr int V = Vector<T>::kSize, kVectors = kUnits * kQuad / V, kLog2V = V == 2 ? 1 : V == 4 ? 2 : 3;
    const Permutation p(code_of(r_.table.action(e)));
    prepare(e, false, {});
    // Vectors of the source lie along rows of the tile; or, for a quarter turn, along columns, and then tiles are
    // square.
    Vector<T> vectors[kVectors] = {};
    // Vector k of this thread: its channel, its row or column, and the first of its pixels there; false if there is
    // none.
    const auto vector = [&](int k, int32_t& c, int32_t& line, int32_t& first) {
      const int32_t n = k * kTileThreads + threadIdx.x, width = t_.log2_columns - kLog2V;
      first = low(n, width) << kLog2V, line = low(n >> width, t_.log2_rows), c = n >> (width + t_.log2_rows);
      return c < kQuad << t_.log2_quads && c0_ + c < r_.C;
    };
    int32_t c, line, first;
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const bool live = vector(k, c, line, first);
      const int32_t i = (p.transposed ? j0_ : i0_) + line, j = (p.transposed ? i0_ : j0_) + first;
      if (!live || i >= r_.H || j >= r_.W) continue;
      const T* from = image + m_.source[c] + (p.reverse_row ? r_.H - 1 - i : i) * r_.in_layout.h;
      const auto v = *reinterpret_cast<const Vector<T>*>(from + (p.reverse_col ? r_.W - V - j : j));
      for (int n = 0; n < V; ++n) vectors[k].at[n] = p.reverse_col ? v.at[V - 1 - n] : v.at[n];
    }
    if (p.transposed) {
#pragma unroll
      for (int k = 0; k < kVectors; ++k)
        if (vector(k, c, line, first))
          for (int n = 0; n < V; ++n) m_.values()[slot(c, first + n, line)] = widen(vectors[k].at[n]);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kVectors; ++k)
        if (vector(k, c, line, first))
          for (int n = 0; n < V; ++n) vectors[k].at[n] = narrow<T>(m_.values()[slot(c, line, first + n)]);
    }
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const bool live = vector(k, c, line, first);
      if (!live || i0_ + line >= r_.H || j0_ + first >= r_.W) continue;
      *reinterpret_cast<Vector<T>*>(out + (c0_ + c) * to.c + (i0_ + line) * to.h + j0_ + first) = vectors[k];
    }
  }

 private:
  // The permutation that images go through.
  __device__ int code_of(const Action& a) const { return r_.adjoint ? inverse_code(a.code) : a.code; }

  // The lowest bits of v.
  __device__ static int32_t low(int32_t v, int32_t bits) { return v & ((1 << bits) - 1); }

  // Where unit k of this thread lies, if threads walk over the tile like that.
  __device__ Place place(int k, Walk walk) const {
    int32_t u = k * kTileThreads + threadIdx.x;
    Place p;
    p.live = u < 1 << (t_.log2_rows + t_.log2_columns + t_.log2_quads);
    p.q = t_.channels_together ? low(u, t_.log2_quads) : u >> (t_.log2_rows + t_.log2_columns);
    if (t_.channels_together) u >>= t_.log2_quads;
    if (walk == Walk::columns) {
      p.i = low(u, t_.log2_rows), p.j = low(u >> t_.log2_rows, t_.log2_columns);
    } else {
      // A warp takes a patch of 2^width columns and 2^height rows: eight columns by four rows, or part of one row.
      const int32_t width = walk == Walk::rows ? t_.log2_columns : at_most(t_.log2_columns, 3);
      const int32_t height = at_most(t_.log2_rows, 5 - width);
      p.j = low(u, width) + (low(u >> (width + height), t_.log2_columns - width) << width);
      p.i = low(u >> width, height) + (low(u >> (t_.log2_columns + height), t_.log2_rows - height) << height);
    }
    p.live = p.live && i0_ + p.i < r_.H && j0_ + p.j < r_.W;
    return p;
  }

  // The index of a value of the tile in shared memory.
  __device__ int32_t slot(int32_t c, int32_t i, int32_t j) const {
    return ((c << t_.log2_rows) + i) * ((1 << t_.log2_columns) + 1) + j;
  }

  // Reads the channels of a unit at one pixel of the source; `at` is that pixel of the image's first channel.
  __device__ void pixel(const T* at, const Place& p, A (&v)[kQuad]) const {
    if (r_.in_layout.vector_quads) {
      const auto quad = *reinterpret_cast<const Quad<T>*>(at + m_.source[kQuad * p.q]);
#pragma unroll
      for (int c = 0; c < kQuad; ++c) v[c] = widen(quad.at[c]);
      return;
    }
#pragma unroll
    for (int c = 0; c < kQuad; ++c) v[c] = channel(p, c) < r_.C ? widen(at[m_.source[kQuad * p.q + c]]) : A(0);
  }

  __device__ void read(const T* image, const ExactView& view, const Place& p, A (&v)[kQuad]) const {
    pixel(image + view.origin + row(p) * view.down + column(p) * view.right, p, v);
  }

  // As Corners::of, for all channels of a unit.
  __device__ void interpolate(const T* image, const Place& p, A (&v)[kQuad]) const {
    const Corners<A> at(m_.rows[p.i], m_.columns[p.j], grid_);
    const T* first = image + at.i * r_.in_layout.h + at.j * r_.in_layout.w;
    const int64_t below = at.down * r_.in_layout.h, next = at.right * r_.in_layout.w;
    A v00[kQuad], v01[kQuad], v10[kQuad], v11[kQuad];
    pixel(first, p, v00), pixel(first + next, p, v01);
    pixel(first + below, p, v10), pixel(first + below + next, p, v11);
#pragma unroll
    for (int c = 0; c < kQuad; ++c) v[c] = (v00[c] * at.w00 + v11[c] * at.w11) + (v01[c] * at.w01 + v10[c] * at.w10);
  }

  // Writes an exact member to shared memory. Threads walk along the source.
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

  // Writes unit k of an interpolated member to shared memory. read(p, v) reads its pixels.
  template <class F>
  __device__ void stage_unit(int k, int32_t e, F read) {
    const Place p = unit(k);
    A v[kQuad] = {};
    if (!p.live) return;
    read(p, v);
    mix(e, v);
    for (int c = 0; c < kQuad; ++c) m_.values()[slot(kQuad * p.q + c, p.i, p.j)] = v[c];
  }

  // Writes a member that interpolates to shared memory. The loop is hardly unrolled: the transpose is much code, and
  // others take many registers.
  __device__ void stage_interpolated(const T* image, const Action& action, int32_t e) {
    if constexpr (GATHERS) {
      const Readers<A> readers(action.matrix(), r_.table.rotates, grid_, r_.lines + e * (int64_t(r_.H) + r_.W),
                               r_.in_layout.h, r_.in_layout.w);
#pragma unroll 1
      for (int k = 0; k < kUnits; ++k) {
        stage_unit(k, e, [&](const Place& p, A(&v)[kQuad]) {
          readers.each(row(p), column(p), [&](int64_t at, A weight) {
            A x[kQuad];
            pixel(image + at, p, x);
            for (int c = 0; c < kQuad; ++c) v[c] += weight * x[c];
          });
        });
      }
    } else {
#pragma unroll 2
      for (int k = 0; k < kUnits; ++k)
        stage_unit(k, e, [&](const Place& p, A(&v)[kQuad]) { interpolate(image, p, v); });
    }
  }

  // Applies the 2 × 2 matrix of element e to the pairs of channels of a unit.
  __device__ void mix(int32_t e, A (&v)[kQuad]) const {
    if (!r_.table.mixes) return;
    A m[2][2];
    for (int n = 0; n < 4; ++n) m[n / 2][n % 2] = static_cast<A>(r_.table.mixing(e, n / 2, n % 2));
#pragma unroll
    for (int c = 0; c < kQuad; c += 2) {
      const A first = v[c], second = v[c + 1];
      v[c] = m[0][0] * first + m[0][1] * second;
      v[c + 1] = m[1][0] * first + m[1][1] * second;
    }
  }

  const Resample& r_;
  const Tiling& t_;
  TileMemory<A>& m_;
  Grid grid_;
  Walk owner_;
  int32_t i0_, j0_, c0_;
};

// Writes one tile of member e of `image`, times the weight if there is one, to the image `out`.
template <class T, bool GATHERS>
__device__ void write_member(const ResampleArgs& a, uint32_t tile, const T* image, int32_t e, const Acc<T>* weight,
                             T* out) {
  const Resample& r = a.resample;
  const bool exact = r.table.exact(e);
  Tile<T, GATHERS> t(r, tile, exact ? Walk::rows : Walk::patches);
  if (exact && r.in_layout.vector_rows && a.out_layout.vector_rows && !weight && !r.table.mixes)
    return t.copy(image, e, out, a.out_layout);
  t.member(image, e, [&](int k, Acc<T>(&v)[kQuad]) {
    if (weight)
      for (int c = 0; c < kQuad; ++c) v[c] *= *weight;
    t.store(k, v, out, a.out_layout);
  });
}

// The sum of v over a block, which only its first thread gets. Two sums may follow each other without a barrier if they
// have different slots, 0 and 1.
template <class A>
__device__ A block_sum(A v, TileMemory<A>& m, int slot) {
  for (int lanes = 16; lanes > 0; lanes /= 2) v += __shfl_xor_sync(~0u, v, lanes);
  if (threadIdx.x % 32 == 0) m.sums[slot][threadIdx.x / 32] = v;
  __syncthreads();
  A sum = 0;
  if (threadIdx.x == 0)
    for (int k = 0; k < kWarps; ++k) sum += m.sums[slot][k];
  return sum;
}

// Launches the kernel<T, GATHERS> that a resample needs.
#define EQUIFAST_LAUNCH_RESAMPLE(name, kernel, resample, blocks, args, stream)                   \
  visit((resample).dtype, [&]<class T>(T) {                                                      \
    const bool gathers = (resample).adjoint && (resample).table.interpolates;                    \
    const auto variant = gathers ? kernel<T, true> : kernel<T, false>;                           \
    launch(name, variant, blocks, kTileThreads, tile_bytes<T>((resample).tiling), stream, args); \
  })

}  // namespace equifast::cuda
