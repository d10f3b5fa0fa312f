// orbit_average, for other ops that end with it.
#pragma once

#include "common/action_table.h"
#include "common/tensors.h"

namespace equifast::cuda {

Tensor orbit_average(Tensor y, std::optional<Tensor> weights, std::vector<double> table, OptionalIntegers permutation,
                     OptionalNumbers mixing, std::string padding_mode, bool adjoint);

}  // namespace equifast::cuda
