// orbit_conv2d as torch calls it on the CPU, where the first layer is small enough for the direct kernel.
#pragma once

#include <tuple>

#include "cpu/runtime/resample_plan.h"

namespace equifast {

// float32; the op's eager form takes everything else.
Tensor orbit_conv2d_direct(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<double> table,
                           std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation,
                           std::string padding_mode, std::string activation, bool channels_last);

// Gradients of weight and bias, kernels of up to kMaxWidth columns. channels_last: the layout to read grad in.
std::tuple<Tensor, Tensor> orbit_conv2d_direct_backward(Tensor grad, Tensor x, std::vector<int64_t> kernel,
                                                        std::vector<double> table, std::vector<int64_t> stride,
                                                        std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                                        std::string padding_mode, bool channels_last);

}  // namespace equifast
