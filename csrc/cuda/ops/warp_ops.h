// The ops that move pixels, as torch calls them on a GPU. Shapes and meaning: equifast/ops.
#pragma once

#include "cuda/runtime/images.h"

namespace equifast::cuda {

Tensor orbit(Tensor x, std::optional<Tensor> weights, std::vector<double> table, std::vector<int64_t> permutation,
             std::vector<double> mixing, std::string padding_mode, bool adjoint);
Tensor act(Tensor x, Tensor element, std::vector<double> table, std::vector<int64_t> permutation,
           std::vector<double> mixing, std::string padding_mode, bool adjoint);
Tensor orbit_average(Tensor y, std::optional<Tensor> weights, std::vector<double> table,
                     std::vector<int64_t> permutation, std::vector<double> mixing, std::string padding_mode,
                     bool adjoint);
Tensor orbit_inner(Tensor u, Tensor v, std::vector<double> table, std::vector<int64_t> permutation,
                   std::vector<double> mixing, std::string padding_mode);
Tensor angle_inner(Tensor x, Tensor image, Tensor grad, Tensor element, std::vector<double> table, int64_t turns,
                   std::string padding_mode);

}  // namespace equifast::cuda
