// angle_inner: what changes by the angle of each image and by its reflection flag, in one pass over x, its canonical
// images and the gradient there; in parts that are summed afterwards.
#include "cuda/device/tile.cuh"

namespace equifast::cuda {
namespace {

// The two pixels around a sample along an axis, and whether there are such.
struct Around {
  int32_t near, far;
  bool has_near, has_far;

  __device__ Around(int32_t first, int32_t size, bool border) {
    near = at_most(at_least(first, 0), size - 1), far = at_most(at_least(first + 1, 0), size - 1);
    has_near = border || near == first, has_far = border || far == first + 1;
  }
};

// d/dθ of what is interpolated in a cell of four pixels, at fractions (right, below) of it and at (u, v) about the
// centre: R(−θ)x reads x there, so du/dθ = v and dv/dθ = −u.
template <class T>
__device__ Acc<T> slope(const Plane<T>& x, const Around& column, const Around& row, Acc<T> right, Acc<T> below,
                        Acc<T> u, Acc<T> v) {
  using A = Acc<T>;
  const A v00 = row.has_near && column.has_near ? x.at(row.near, column.near) : A(0);
  const A v01 = row.has_near && column.has_far ? x.at(row.near, column.far) : A(0);
  const A v10 = row.has_far && column.has_near ? x.at(row.far, column.near) : A(0);
  const A v11 = row.has_far && column.has_far ? x.at(row.far, column.far) : A(0);
  const A top = v01 - v00, left = v10 - v00, twist = v11 - v10 - top;
  return (top + below * twist) * v - (left + right * twist) * u;
}

// A block sums a run of tiles of one image.
template <class T>
__global__ void __launch_bounds__(kTileThreads, 2) angle_inner_kernel(const __grid_constant__ AngleArgs a) {
  using A = Acc<T>;
  constexpr A kStep = A(1) / kOne;
  const Transform& w = a.transform;
  const uint32_t parts = a.parts.count, part = blockIdx.x % parts, tiles = w.tiling.tiles();
  const uint32_t first = part * a.parts.tiles, end = first + a.parts.tiles, stop = end < tiles ? end : tiles;
  const int64_t b = blockIdx.x / parts;
  const int64_t id = a.element[b * a.element_b];
  const bool reflected = id >= a.turns;
  const int64_t turn = reflected ? id - a.turns : id;
  // As in act: ids beyond the table must not read what is not ours.
  const Matrix m = w.table.row(turn >= 0 && turn < a.turns ? turn : 0).matrix();
  const auto plane_of = [b](const void* images, const Layout& s, int64_t c) {
    return Plane<T>{static_cast<const T*>(images) + b * s.b + c * s.c, s.h, s.w};
  };
  A by_angle = 0, by_flag = 0;
  for (uint32_t n = first; n < stop; ++n) {
    Tile<T, false> tile(w, n, Walk::patches);
    tile.prepare(0, true, m);
#pragma unroll 1
    for (int k = 0; k < kUnits; ++k) {
      const Place p = tile.unit(k);
      if (!p.live) continue;
      const Fixed column = tile.position(p).x, row = tile.position(p).y;
      const A u = A(column.whole - (w.W - 1) / 2.0 + double(column.fraction) / kOne);
      const A v = A(row.whole - (w.H - 1) / 2.0 + double(row.fraction) / kOne);
      // Where a sample falls on a pixel, the cell to the left and above counts as much as the one from there.
      const bool on_column = column.fraction == 0, on_row = row.fraction == 0, both = on_column || on_row;
      const int32_t mirrored = w.W - 1 - tile.column(p);
#pragma unroll 1
      for (int cell = 0; cell <= both; ++cell) {
        const bool left = cell && on_column, above = cell && on_row;
        const Around columns(column.whole - left, w.W, w.table.border), rows(row.whole - above, w.H, w.table.border);
        const A right = left ? A(1) : A(column.fraction) * kStep, below = above ? A(1) : A(row.fraction) * kStep;
        const A share = both ? A(0.5) : A(1);
        for (int c = tile.channel(p, 0); c < tile.channel(p, kQuad) && c < w.C; ++c) {
          const Plane<T> gradient = plane_of(a.grad, a.grad_from, c), canonical = plane_of(a.image, a.image_from, c);
          const A g = gradient.at(tile.row(p), reflected ? mirrored : tile.column(p));
          by_angle += g * (share * slope(plane_of(w.in, w.from, c), columns, rows, right, below, u, v));
          if (cell == 0)
            by_flag += g * (canonical.at(tile.row(p), mirrored) - canonical.at(tile.row(p), tile.column(p)));
        }
      }
    }
  }
  by_angle = block_sum(by_angle, *shared_memory<TileMemory<A>>(), 0);
  by_flag = block_sum(by_flag, *shared_memory<TileMemory<A>>(), 1);
  if (threadIdx.x != 0) return;
  A* partial = static_cast<A*>(a.partial) + (part * w.B + b) * 2;
  partial[0] = by_angle;
  partial[1] = by_flag;
}

}  // namespace

void angle_inner(const AngleArgs& a, Stream stream) {
  const Transform& w = a.transform;
  visit(w.dtype, [&]<class T>(T) {
    launch("angle_inner", angle_inner_kernel<T>, w.B * a.parts.count, kTileThreads, tile_bytes<T>(w.tiling), stream, a);
  });
}

}  // namespace equifast::cuda
