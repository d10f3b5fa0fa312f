// Checks and conversions of tensor arguments.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "common/types.h"

namespace equifast {

using torch::headeronly::MemoryFormat;
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

// The type in which the values of a tensor are summed.
inline ScalarType accumulate_dtype(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// An uninitialized tensor on the device of `like`, and of its dtype unless another is given.
inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes,
                    std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_empty(like, {sizes.begin(), sizes.size()}, dtype);
}

inline Tensor zeros(const Tensor& like, std::initializer_list<int64_t> sizes,
                    std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_zeros(like, {sizes.begin(), sizes.size()}, dtype);
}

inline MemoryFormat memory_format(bool channels_last) {
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

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

// The address of the first value, or null without a tensor.
inline const void* data_of(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

// {B, C, H, W} of images (B, C, H, W), or of one such batch for each element, (E, B, C, H, W).
inline std::array<int64_t, 4> image_sizes(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4 || t.dim() == 5, name, ": expected (B, C, H, W) or (E, B, C, H, W), got ", t.dim(),
                  " dimensions");
  return {t.size(-4), t.size(-3), t.size(-2), t.size(-1)};
}

inline void check_one_batch(const Tensor& images, const char* name) {
  STD_TORCH_CHECK(images.dim() == 4, name, ": expected (B, C, H, W), got ", images.dim(), " dimensions");
}

// Images of one batch may serve all elements; otherwise there has to be a batch for each element.
inline void check_elements(const Tensor& images, int64_t order, const char* name) {
  STD_TORCH_CHECK(images.dim() == 4 || images.size(0) == order, name, ": expected ", order, " elements, got ",
                  images.size(0));
}

// `element` holds one element id for each image of a batch.
inline void check_ids(const Tensor& element, int64_t batch) {
  STD_TORCH_CHECK(element.dim() == 1 && element.size(0) == batch && element.scalar_type() == ScalarType::Long,
                  "element: expected ", batch, " ids of type int64");
}

// `element` holds one element id for each image of a batch, or several of them: those of the whole batch k times over.
inline void check_repeated_ids(const Tensor& element, int64_t batch) {
  STD_TORCH_CHECK(element.dim() == 1 && element.scalar_type() == ScalarType::Long &&
                      (batch ? element.size(0) % batch == 0 : element.size(0) == 0),
                  "element: expected a multiple of ", batch, " ids of type int64");
}

// `weights` holds one factor for each image and element.
inline void check_weights(const Tensor& weights, const Tensor& images, int64_t batch, int64_t order) {
  STD_TORCH_CHECK(weights.dim() == 2 && weights.size(0) == batch && weights.size(1) == order, "weights: expected (",
                  batch, ", ", order, ")");
  STD_TORCH_CHECK(weights.scalar_type() == accumulate_dtype(images),
                  "weights: expected the accumulate type of the images");
}

// The two operands of orbit_inner; returns their {B, C, H, W}.
inline std::array<int64_t, 4> check_operands(const Tensor& u, const Tensor& v) {
  const auto sizes = image_sizes(u, "u");
  STD_TORCH_CHECK(sizes == image_sizes(v, "v"), "v: expected the batch, channels, height and width of u");
  STD_TORCH_CHECK(u.scalar_type() == v.scalar_type(), "v: expected the dtype of u");
  return sizes;
}

}  // namespace equifast
