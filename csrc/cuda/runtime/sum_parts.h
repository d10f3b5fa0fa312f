// The last step of a sum of which every block has taken a part.
#pragma once

#include "common/types.h"
#include "cuda/runtime/hardware.h"

namespace equifast::cuda {

struct SumPartsArgs {
  Dtype dtype;  // of out
  int64_t parts, n;
  const void* partial;  // (parts, n) in the accumulate type
  double scale;
  void* out;  // (n,): scale · the sum over the parts, in an order that depends on `parts` and n alone
};

void sum_parts(const SumPartsArgs& args, Stream stream);

}  // namespace equifast::cuda
