// orbit_average: out[b] = Σ_e w[b, e] · ρ S_e y[e, b], or that of the transposes.
#include "cuda/device/tile.cuh"

namespace equifast::cuda {
namespace {

// A block sums one tile of one image.
template <class T, bool GATHERS>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, GATHERS, true>)
    orbit_average_kernel(const __grid_constant__ WarpArgs a) {
  using A = Acc<T>;
  const Transform& w = a.transform;
  const uint32_t tiles = w.tiling.tiles();
  const int64_t b = blockIdx.x / tiles;
  Tile<T, GATHERS, true> tile(w, blockIdx.x % tiles, w.table.interpolates ? Walk::patches : Walk::rows);
  const T* image = static_cast<const T*>(w.in) + b * w.from.b;
  const auto* weights = static_cast<const A*>(a.weights);
  UnitValues<T> sums = {};
  for (int32_t e = 0; e < w.table.order; ++e, image += w.from.e) {
    const A scale = weights ? weights[b * a.weight_b + e * a.weight_e] : A(1);
    tile.member(image, e, [&](int k, const A(&v)[kQuad]) {
      for (int c = 0; c < kQuad; ++c) sums[k][c] += v[c] * scale;
    });
  }
  for (int k = 0; k < kUnits; ++k) tile.store(k, sums[k], static_cast<T*>(a.out) + b * a.to.b, a.to);
}

}  // namespace

void orbit_average(const WarpArgs& a, Stream stream) {
  const Transform& w = a.transform;
  EQUIFAST_LAUNCH_WARP("orbit_average", orbit_average_kernel, w, w.B * w.tiling.tiles(), a, stream);
}

}  // namespace equifast::cuda
