// The weights of convolutions as the direct kernels read them, and the way back.
#pragma once

#include <vector>

#include "common/tensors.h"
#include "cpu/kernels/conv2d.h"
#include "cpu/kernels/conv2d_tiles.h"

namespace equifast::cpu {

inline bool is_bfloat16(const Tensor& t) { return t.scalar_type() == ScalarType::BFloat16; }

// The values of a float32 or bfloat16 tensor in float32.
std::vector<float> values_of(const Tensor& t);

// Copies a weight (C_out, taps), each channel times its scale, to (blocks, taps, kBlock), with zeros past the last
// channel.
std::vector<float> packed(const Tensor& weight, const std::vector<double>& scale, int64_t taps);

// A row of a tile of weights, (kBlock, 2). It is a cache line, so that no row crosses two.
struct alignas(64) TileRow {
  uint16_t values[2 * kBlock];
};

// Copies a bfloat16 weight (C_out, C, kernel_h, kernel_w) to the tiles of AMX.
std::vector<TileRow> packed_tiles(const Tensor& weight, const Conv2d& k);

// The reverse of packed: out, (C_out, taps), gets the sum over `parts` of what is packed at `start` of each; the parts
// are `part_size` numbers apart.
void unpack_sum(const std::vector<float>& sums, int64_t parts, int64_t part_size, int64_t start, int64_t taps,
                const Tensor& out);

}  // namespace equifast::cpu
