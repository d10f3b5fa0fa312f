// orbit_average: out[b] = Σ_e w[b, e] · ρ S_e y[e, b]; or the sum of the transposes.
#include "cuda/device/tile.cuh"

namespace equifast::cuda {
namespace {

// A block sums one tile of one image over the elements.
template <class T, bool GATHERS>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, GATHERS, true>)
    orbit_average_kernel(const __grid_constant__ ResampleArgs a) {
  using A = Acc<T>;
  const Resample& r = a.resample;
  const uint32_t tiles = r.tiling.tiles();
  const int64_t b = blockIdx.x / tiles;
  Tile<T, GATHERS, true> tile(r, blockIdx.x % tiles, r.table.interpolates ? Walk::patches : Walk::rows);
  const T* image = static_cast<const T*>(r.in) + b * r.in_layout.b;
  const auto* weights = static_cast<const A*>(a.weights);
  UnitValues<T> sums = {};
  for (int32_t e = 0; e < r.table.order; ++e, image += r.in_layout.e) {
    const A scale = weights ? weights[b * a.weight_b + e * a.weight_e] : A(1);
    tile.member(image, e, [&](int k, const A(&v)[kQuad]) {
      for (int c = 0; c < kQuad; ++c) sums[k][c] += v[c] * scale;
    });
  }
  for (int k = 0; k < kUnits; ++k) tile.store(k, sums[k], static_cast<T*>(a.out) + b * a.out_layout.b, a.out_layout);
}

}  // namespace

void launch_orbit_average(const ResampleArgs& a, Stream stream) {
  const Resample& r = a.resample;
  EQUIFAST_LAUNCH_RESAMPLE("orbit_average", orbit_average_kernel, r, r.B * r.tiling.tiles(), a, stream);
}

}  // namespace equifast::cuda
