// orbit: every element applied to every image, out[e, b] = w[b, e] · ρ S_e x[b]; or the transpose of each.
#include "cuda/device/tile.cuh"

namespace equifast::cuda {
namespace {

// A block writes one tile of one member. The blocks of one image's members follow each other, so that they find the
// image in the cache.
template <class T, bool GATHERS>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, GATHERS>)
    orbit_kernel(const __grid_constant__ ResampleArgs a) {
  const Resample& r = a.resample;
  const uint32_t tiles = r.tiling.tiles(), member = blockIdx.x / tiles, order = r.table.order;
  const int32_t e = member % order;
  const int64_t b = member / order;
  const auto* weights = static_cast<const Acc<T>*>(a.weights);
  write_member<T, GATHERS>(a, blockIdx.x % tiles, static_cast<const T*>(r.in) + b * r.in_layout.b, e,
                           weights ? weights + b * a.weight_b + e * a.weight_e : nullptr,
                           static_cast<T*>(a.out) + e * a.out_layout.e + b * a.out_layout.b);
}

}  // namespace

void launch_orbit(const ResampleArgs& a, Stream stream) {
  const Resample& r = a.resample;
  EQUIFAST_LAUNCH_RESAMPLE("orbit", orbit_kernel, r, r.table.order * r.B * r.tiling.tiles(), a, stream);
}

}  // namespace equifast::cuda
