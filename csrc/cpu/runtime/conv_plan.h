// From the arguments of orbit_conv2d and of its gradient to what their kernels read.
#pragma once

#include "common/convolution.h"
#include "cpu/runtime/resample_plan.h"

namespace equifast::cpu {

// The convolution of one image of `channels`, without its weights.
Conv2d convolution(int64_t channels, int64_t out_channels, const std::array<Window, 2>& windows, bool channels_last);

// What forward and backward have in common: how members are made, and the convolution of one member.
OrbitConv2dArgs conv_arguments(const Tensor& x, const Resample& resample, int64_t out_channels,
                               const std::array<Window, 2>& windows, bool channels_last);

void check_float32(const Tensor& t, const char* name);

}  // namespace equifast::cpu
