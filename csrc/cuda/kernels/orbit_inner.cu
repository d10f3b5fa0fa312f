// orbit_inner: out[b, e] = ⟨ρ S_e u, v⟩, in parts that sum_parts adds up.
#include "cuda/device/tile.cuh"

namespace equifast::cuda {
namespace {

// A block sums a run of tiles of one image. It takes all elements of a tile while the tile is in the cache.
template <class T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, false, true>)
    orbit_inner_kernel(const __grid_constant__ InnerArgs a) {
  using A = Acc<T>;
  const Resample& r = a.resample;
  const uint32_t parts = a.parts.count, part = blockIdx.x % parts, tiles = r.tiling.tiles();
  const uint32_t first = part * a.parts.tiles, end = first + a.parts.tiles, stop = end < tiles ? end : tiles;
  const int64_t b = blockIdx.x / parts;
  A* partial = static_cast<A*>(a.partial) + (part * r.B + b) * r.table.order;
  for (uint32_t n = first; n < stop; ++n) {
    Tile<T, false, true> tile(r, n, r.table.interpolates ? Walk::patches : Walk::rows);
    const T* u = static_cast<const T*>(r.in) + b * r.in_layout.b;
    const T* v = static_cast<const T*>(a.v) + b * a.v_layout.b;
    UnitValues<T> v_values;
    for (int32_t e = 0; e < r.table.order; ++e, u += r.in_layout.e, v += a.v_layout.e) {
      if (e == 0 || a.v_layout.e != 0) tile.load(v, a.v_layout, v_values);
      A sum = 0;
      tile.member(u, e, [&](int k, const A(&values)[kQuad]) {
        for (int c = 0; c < kQuad; ++c) sum += values[c] * v_values[k][c];
      });
      sum = block_sum(sum, *shared_memory<TileMemory<A>>(), 0);
      if (threadIdx.x == 0) partial[e] = n == first ? sum : partial[e] + sum;
    }
  }
}

}  // namespace

void launch_orbit_inner(const InnerArgs& a, Stream stream) {
  const Resample& r = a.resample;
  visit(r.dtype, [&]<class T>(T) {
    launch("orbit_inner", orbit_inner_kernel<T>, r.B * a.parts.count, kTileThreads, tile_bytes<T>(r.tiling), stream, a);
  });
}

}  // namespace equifast::cuda
