// orbit, for other ops that begin with it.
#pragma once

#include "common/tensors.h"

namespace equifast::cuda {

Tensor orbit(Tensor x, std::optional<Tensor> weights, std::vector<double> table, std::vector<int64_t> permutation,
             std::vector<double> mixing, std::string padding_mode, bool adjoint);

}  // namespace equifast::cuda
