// The device of a call, and the images that it returns.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "common/tensors.h"
#include "cuda/runtime/hardware.h"

namespace equifast::cuda {

// While this object lives, the device of a tensor is the current one. `stream` is the stream that torch uses there.
class OnDeviceOf {
 public:
#ifdef EQUIFAST_EMULATED
  explicit OnDeviceOf(const Tensor&) {}
  Stream stream = nullptr;
#else
  explicit OnDeviceOf(const Tensor& t) : guard_(t.get_device_index()) {
    void* current = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &current) == 0, "torch has no stream");
    stream = static_cast<Stream>(current);
  }
  Stream stream;

 private:
  torch::stable::accelerator::DeviceGuard guard_;
#endif
};

// Whether torch would suggest the memory format channels_last for images (…, C, H, W): the strides ascend from channels
// to columns to rows.
inline bool suggests_channels_last(const Tensor& t) {
  if (t.is_contiguous() || t.stride(-3) == 0) return false;
  int64_t smallest = 0;
  for (const int axis : {-3, -1, -2, -4}) {
    if (t.size(axis) == 0 || t.stride(axis) < smallest || (axis == -4 && smallest == t.stride(-3))) return false;
    smallest = t.stride(axis) * t.size(axis);
  }
  return true;
}

// Uninitialized images (B, C, H, W) of the dtype of `like`.
inline Tensor new_images(const Tensor& like, const std::array<int64_t, 4>& sizes, bool channels_last) {
  return torch::stable::empty({sizes.data(), 4}, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace equifast::cuda
