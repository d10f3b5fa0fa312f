// orbit: every element applied to every image, out[e, b] = w[b, e] · ρ S_e x[b], or the transpose of each.
#include "cuda/device/tile.cuh"

namespace equifast::cuda {
namespace {

// A block writes one tile of one member. Members of one image are neighbours, so that they find it in the cache.
template <class T, bool GATHERS>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, GATHERS>)
    orbit_kernel(const __grid_constant__ WarpArgs a) {
  const Transform& w = a.transform;
  const uint32_t tiles = w.tiling.tiles(), member = blockIdx.x / tiles, order = w.table.order;
  const int32_t e = member % order;
  const int64_t b = member / order;
  const auto* weights = static_cast<const Acc<T>*>(a.weights);
  write_member<T, GATHERS>(a, blockIdx.x % tiles, static_cast<const T*>(w.in) + b * w.from.b, e,
                           weights ? weights + b * a.weight_b + e * a.weight_e : nullptr,
                           static_cast<T*>(a.out) + e * a.to.e + b * a.to.b);
}

}  // namespace

void orbit(const WarpArgs& a, Stream stream) {
  const Transform& w = a.transform;
  EQUIFAST_LAUNCH_WARP("orbit", orbit_kernel, w, w.table.order * w.B * w.tiling.tiles(), a, stream);
}

}  // namespace equifast::cuda
