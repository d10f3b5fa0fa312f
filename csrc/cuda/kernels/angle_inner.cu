// angle_inner: the derivatives of ⟨grad, canonical image⟩ by the angle of each image and by its reflection flag. One
// pass reads x, the canonical images and the gradient there, and leaves parts that sum_parts adds up.
#include "cuda/device/tile.cuh"

namespace equifast::cuda {
namespace {

// The two pixels around a sample along an axis, and whether the image has them.
struct Around {
  int32_t near, far;
  bool has_near, has_far;

  __device__ Around(int32_t first, int32_t size, bool border) {
    near = at_most(at_least(first, 0), size - 1), far = at_most(at_least(first + 1, 0), size - 1);
    has_near = border || near == first, has_far = border || far == first + 1;
  }
};

// d/dθ of the value that is interpolated in a cell of four pixels, at fractions (right, below) of the cell, which is at
// (u, v) about the centre. R(−θ)x reads x there, so du/dθ = v and dv/dθ = −u.
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
//
// 1. Find the image, and the rotation of its element.
// 2. For every pixel of the tiles, interpolate the slope by the angle, times the gradient; and take the difference of
//    the canonical image and its mirror image, times the gradient.
// 3. Sum both over the block.
template <class T>
__global__ void __launch_bounds__(kTileThreads, 2) angle_inner_kernel(const __grid_constant__ AngleArgs a) {
  using A = Acc<T>;
  constexpr A kStep = A(1) / kOne;
  const Resample& r = a.resample;
  const uint32_t parts = a.parts.count, part = blockIdx.x % parts, tiles = r.tiling.tiles();
  const uint32_t first = part * a.parts.tiles, end = first + a.parts.tiles, stop = end < tiles ? end : tiles;
  const int64_t b = blockIdx.x / parts;
  const int64_t id = a.element[b * a.element_b];
  const bool reflected = id >= a.turns;
  const int64_t turn = reflected ? id - a.turns : id;
  // As in act: an id beyond the table must not read memory of others.
  const Action action = r.table.action(turn >= 0 && turn < a.turns ? turn : 0);
  const auto plane_of = [b](const void* images, const Layout& s, int64_t c) {
    return Plane<T>{static_cast<const T*>(images) + b * s.b + c * s.c, s.h, s.w};
  };
  A by_angle = 0, by_flag = 0;
  for (uint32_t n = first; n < stop; ++n) {
    Tile<T, false> tile(r, n, Walk::patches);
    tile.prepare(0, true, action);
#pragma unroll 1
    for (int k = 0; k < kUnits; ++k) {
      const Place p = tile.unit(k);
      if (!p.live) continue;
      const Fixed column = tile.position(p).x, row = tile.position(p).y;
      const A u = A(column.whole - (r.W - 1) / 2.0 + double(column.fraction) / kOne);
      const A v = A(row.whole - (r.H - 1) / 2.0 + double(row.fraction) / kOne);
      // Where a sample falls on a row or column of pixels, the slope jumps. Then the cell to the
      // left of it or above counts half, and the cell from there on the other half.
      const bool on_column = column.fraction == 0, on_row = row.fraction == 0, two_cells = on_column || on_row;
      const int32_t mirrored = r.W - 1 - tile.column(p);
#pragma unroll 1
      for (int cell = 0; cell <= two_cells; ++cell) {
        const bool left = cell && on_column, above = cell && on_row;
        const Around columns(column.whole - left, r.W, r.table.border), rows(row.whole - above, r.H, r.table.border);
        const A right = left ? A(1) : A(column.fraction) * kStep, below = above ? A(1) : A(row.fraction) * kStep;
        const A share = two_cells ? A(0.5) : A(1);
        for (int c = tile.channel(p, 0); c < tile.channel(p, kQuad) && c < r.C; ++c) {
          const Plane<T> gradient = plane_of(a.grad, a.grad_layout, c),
                         canonical = plane_of(a.image, a.image_layout, c);
          const A g = gradient.at(tile.row(p), reflected ? mirrored : tile.column(p));
          by_angle += g * (share * slope(plane_of(r.in, r.in_layout, c), columns, rows, right, below, u, v));
          if (cell == 0)
            by_flag += g * (canonical.at(tile.row(p), mirrored) - canonical.at(tile.row(p), tile.column(p)));
        }
      }
    }
  }
  by_angle = block_sum(by_angle, *shared_memory<TileMemory<A>>(), 0);
  by_flag = block_sum(by_flag, *shared_memory<TileMemory<A>>(), 1);
  if (threadIdx.x != 0) return;
  A* partial = static_cast<A*>(a.partial) + (part * r.B + b) * 2;
  partial[0] = by_angle;
  partial[1] = by_flag;
}

}  // namespace

void launch_angle_inner(const AngleArgs& a, Stream stream) {
  const Resample& r = a.resample;
  visit(r.dtype, [&]<class T>(T) {
    launch("angle_inner", angle_inner_kernel<T>, r.B * a.parts.count, kTileThreads, tile_bytes<T>(r.tiling), stream, a);
  });
}

}  // namespace equifast::cuda
