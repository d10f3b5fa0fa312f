// The last step of a sum that blocks took part by part.
#pragma once

#include "cuda/device/pixels.cuh"

namespace equifast::cuda {

struct SumPartsArgs {
  Dtype dtype;  // of out
  int64_t parts, n;
  const void* partial;  // (parts, n) in the accumulate type
  double scale;
  void* out;  // (n,): scale · the sum over parts, in their order
};

void sum_parts(const SumPartsArgs& args, Stream stream);

}  // namespace equifast::cuda
