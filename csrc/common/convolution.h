// The arguments that orbit_conv2d has in common with F.conv2d.
#pragma once

#include "common/tensors.h"

namespace equifast {

Activation activation_of(const std::string& name);

// A size as kernels index by it. `name` is the argument that it belongs to.
int32_t to_int32(int64_t size, const char* name);

// The convolution of images of a size by kernels of a size, both along rows and then columns.
std::array<Window, 2> windows_of(const std::array<int64_t, 2>& size, const std::array<int64_t, 2>& kernel,
                                 const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                 const std::vector<int64_t>& dilation);

// The same for images x (B, C, H, W).
std::array<Window, 2> windows_of(const Tensor& x, const std::array<int64_t, 2>& kernel,
                                 const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                 const std::vector<int64_t>& dilation);

// The weight (C_out, C, kernel height, kernel width) of a convolution of x, and its bias (C_out,).
void check_weight(const Tensor& weight, const Tensor& x);
void check_bias(const Tensor& bias, const Tensor& weight);

}  // namespace equifast
