// orbit_inner: ⟨ρ S_e u, v⟩ of every element, in parts that are summed afterwards.
#include "cuda/device/tile.cuh"

namespace equifast::cuda {
namespace {

// A block sums a run of tiles of one image, all elements while a tile is in cache.
template <class T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, false, true>)
    orbit_inner_kernel(const __grid_constant__ InnerArgs a) {
  using A = Acc<T>;
  const Transform& w = a.transform;
  const uint32_t parts = a.parts.count, part = blockIdx.x % parts, tiles = w.tiling.tiles();
  const uint32_t first = part * a.parts.tiles, end = first + a.parts.tiles, stop = end < tiles ? end : tiles;
  const int64_t b = blockIdx.x / parts;
  A* partial = static_cast<A*>(a.partial) + (part * w.B + b) * w.table.order;
  for (uint32_t n = first; n < stop; ++n) {
    Tile<T, false, true> tile(w, n, w.table.interpolates ? Walk::patches : Walk::rows);
    const T* u = static_cast<const T*>(w.in) + b * w.from.b;
    const T* v = static_cast<const T*>(a.other) + b * a.other_from.b;
    UnitValues<T> other;
    for (int32_t e = 0; e < w.table.order; ++e, u += w.from.e, v += a.other_from.e) {
      if (e == 0 || a.other_from.e != 0) tile.load(v, a.other_from, other);
      A sum = 0;
      tile.member(u, e, [&](int k, const A(&values)[kQuad]) {
        for (int c = 0; c < kQuad; ++c) sum += values[c] * other[k][c];
      });
      sum = block_sum(sum, *shared_memory<TileMemory<A>>(), 0);
      if (threadIdx.x == 0) partial[e] = n == first ? sum : partial[e] + sum;
    }
  }
}

}  // namespace

void orbit_inner(const InnerArgs& a, Stream stream) {
  const Transform& w = a.transform;
  visit(w.dtype, [&]<class T>(T) {
    launch("orbit_inner", orbit_inner_kernel<T>, w.B * a.parts.count, kTileThreads, tile_bytes<T>(w.tiling), stream, a);
  });
}

}  // namespace equifast::cuda
