// act: one element for each image, out[b] = ρ S_e x[b] with e = element[b], or its transpose.
#include "cuda/device/tile.cuh"

namespace equifast::cuda {
namespace {

// A block writes one tile of one image.
template <class T, bool GATHERS>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, GATHERS>)
    act_kernel(const __grid_constant__ WarpArgs a) {
  const Transform& w = a.transform;
  const uint32_t tiles = w.tiling.tiles();
  const int64_t b = blockIdx.x / tiles, id = a.element[b * a.element_b];
  // Ids are on the device, unchecked: beyond the table they must not read what is not ours.
  const int32_t e = id >= 0 && id < w.table.order ? static_cast<int32_t>(id) : 0;
  write_member<T, GATHERS>(a, blockIdx.x % tiles, static_cast<const T*>(w.in) + b * w.from.b, e, nullptr,
                           static_cast<T*>(a.out) + b * a.to.b);
}

}  // namespace

void act(const WarpArgs& a, Stream stream) {
  const Transform& w = a.transform;
  EQUIFAST_LAUNCH_WARP("act", act_kernel, w, w.B * w.tiling.tiles(), a, stream);
}

}  // namespace equifast::cuda
