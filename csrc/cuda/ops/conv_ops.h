// The first layer, as torch calls it on a GPU. Shapes and meaning: equifast/ops/orbit_conv2d.py.
#pragma once

#include "cuda/runtime/images.h"

namespace equifast::cuda {

Tensor orbit_conv2d(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<double> table,
                    std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation,
                    std::string padding_mode, std::string activation, bool tf32);
std::tuple<Tensor, Tensor, Tensor> orbit_conv2d_backward(Tensor grad, Tensor x, Tensor weight,
                                                         std::vector<double> table, std::vector<int64_t> stride,
                                                         std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                                         std::string padding_mode, std::vector<bool> needs, bool tf32);

}  // namespace equifast::cuda
