// orbit, for other ops that begin with it.
#pragma once

#include "common/action_table.h"
#include "common/tensors.h"

namespace equifast::cuda {

Tensor orbit(Tensor x, std::optional<Tensor> weights, std::vector<double> table, OptionalIntegers permutation,
             OptionalNumbers mixing, std::string padding_mode, bool adjoint);

}  // namespace equifast::cuda
