// Plans the launches of orbit_conv2d: how places, channels and taps are cut into blocks, and what a block keeps in
// shared memory.
#pragma once

#include "cuda/kernels/conv.h"

namespace equifast::cuda {

struct ConvPlan {
  ConvArgs args;  // complete but for `packed`
  int64_t blocks;
  int64_t shared_bytes;  // of a block
  int64_t packed_words;  // that `packed` has to have room for
  int64_t packed_bytes() const { return packed_words * word_shape(args.math).word_bytes; }
};

// Throws std::invalid_argument if not even one row of the kernel fits in shared memory.
ConvPlan plan_convolution(const ConvArgs& args);

struct GradWeightPlan {
  GradWeightArgs args;  // complete but for `partial` and `partial_bias`
  int64_t blocks;
  int64_t shared_bytes;  // of a block
};

GradWeightPlan plan_grad_weight(const GradWeightArgs& args);

}  // namespace equifast::cuda
