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

// Uninitialized images (B, C, H, W) of the dtype of `like`.
inline Tensor new_images(const Tensor& like, const std::array<int64_t, 4>& sizes, bool channels_last) {
  return torch::stable::empty({sizes.data(), 4}, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              memory_format(channels_last));
}

}  // namespace equifast::cuda
