// Types that host code and kernels of both libraries share. This header needs nothing of torch.
#pragma once

#include <cstdint>

namespace equifast {

// The type of pixels and of vectors.
enum class Dtype { float64, float32, float16, bfloat16 };

// What a convolution applies to its output.
enum class Activation : int32_t { none, relu, gelu, silu };

// What orbit_logit_scores computes of the logits of a member: a function of equifast/scores.py.
enum class LogitScore : int32_t { confidence, margin, negative_entropy, energy, of_class };

// The arguments of F.conv2d along one axis: along rows or along columns.
struct Window {
  int32_t size;  // of the image
  int32_t kernel, stride, padding, dilation;

  int32_t output_size() const { return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1; }
};

}  // namespace equifast
