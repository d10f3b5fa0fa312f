// From the arguments of a torch op to what the CUDA kernels read.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "cuda/device/pixels.cuh"

namespace equifast::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Double: return Dtype::float64;
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::Half: return Dtype::float16;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    default: break;
  }
  STD_TORCH_CHECK(false, name, ": expected float64, float32, float16 or bfloat16");
}

// The dtype that values of a dtype are summed in.
inline ScalarType wide(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes,
                    std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_empty(like, {sizes.begin(), sizes.size()}, dtype);
}

// Whether torch would suggest channels_last for (…, C, H, W): its strides ascend from channels to columns to rows.
inline bool suggests_channels_last(const Tensor& t) {
  if (t.is_contiguous() || t.stride(-3) == 0) return false;
  int64_t least = 0;
  for (const int d : {-3, -1, -2, -4}) {
    if (t.size(d) == 0 || t.stride(d) < least || (d == -4 && least == t.stride(-3))) return false;
    least = t.stride(d) * t.size(d);
  }
  return true;
}

// Uninitialized images (B, C, H, W) of the type of `like`.
inline Tensor new_images(const Tensor& like, const std::array<int64_t, 4>& sizes, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::empty({sizes.data(), 4}, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

inline const void* data_of(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

// While it lives, the device of a tensor is the current one; `stream` is the one that torch uses there.
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

}  // namespace equifast::cuda
