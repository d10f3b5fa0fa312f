// act: one element for each image, out[b] = ρ S_e x[b] with e = element[b]; or the transpose. Where there are more
// elements than images, the images are taken from the beginning again.
#include "cuda/device/tile.cuh"

namespace equifast::cuda {
namespace {

// In 16 bits, what a thread holds of the element that it reads would spill where the others fit.
template <class T, bool GATHERS>
constexpr int kActBlocks = kTileBlocks<T, GATHERS> - (sizeof(T) == 2 && !GATHERS);

// A block writes one tile of one image.
template <class T, bool GATHERS>
__global__ void __launch_bounds__(kTileThreads, kActBlocks<T, GATHERS>)
    act_kernel(const __grid_constant__ ResampleArgs a) {
  const Resample& r = a.resample;
  const uint32_t tiles = r.tiling.tiles(), member = blockIdx.x / tiles;
  // Usually there are as many images as elements, so there is no remainder to take.
  const int64_t image = member < a.images ? member : member % a.images;
  const int64_t b = member, id = a.element[b * a.element_b];
  // The ids are on the device, so no host code has checked them. One beyond the table must not read memory of others.
  const int32_t e = id >= 0 && id < r.table.order ? static_cast<int32_t>(id) : 0;
  write_member<T, GATHERS>(a, blockIdx.x % tiles, static_cast<const T*>(r.in) + image * r.in_layout.b, e, nullptr,
                           static_cast<T*>(a.out) + b * a.out_layout.b);
}

}  // namespace

void launch_act(const ResampleArgs& a, Stream stream) {
  const Resample& r = a.resample;
  EQUIFAST_LAUNCH_RESAMPLE("act", act_kernel, r, r.B * r.tiling.tiles(), a, stream);
}

}  // namespace equifast::cuda
