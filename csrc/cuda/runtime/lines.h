// What the rows and columns of interpolated members add to the positions that they read, for kernels that need those of
// few pixels each. Positions come from float64, of which most GPUs compute little, so they are computed once.
#pragma once

#include "cuda/runtime/device_table.h"

namespace equifast::cuda {

struct LinesArgs {
  DeviceTable table;
  int32_t H, W;
  Offsets* out;  // (E, H + W): of each element, its rows and then its columns
};

void list_lines(const LinesArgs& args, Stream stream);

}  // namespace equifast::cuda
