// A group's action on images of one size, as an argument of kernels. The table of a small group lies in the argument
// itself. Then nothing has to be copied to the device, or kept there as long as a captured graph may run again.
#pragma once

#include <cstdint>

#include "cuda/runtime/hardware.h"
#include "geometry.h"

namespace equifast::cuda {

struct DeviceTable {
  static constexpr int kInlineElements = 24;  // of the largest group whose table fits in the argument

  int32_t order;             // E, the number of elements
  int32_t permutation_size;  // how many channels an element permutes among themselves; 0 for none
  bool border;               // padding_mode "border"
  bool mixes;                // elements mix pairs of channels
  bool interpolates;         // some element does not map the grid onto itself
  bool rotates;              // every element is a rotation or a reflection, but for rounding, as in a group
  // The table of a larger group, in the memory of the device; else null.
  const Action* memory_actions;       // (E,)
  const int32_t* memory_permutation;  // (E, permutation_size), or null
  const double* memory_mixing;        // (E, 2, 2), or null
  const int32_t* memory_exact;        // (E,)
  // The table of a small group.
  Action inline_actions[kInlineElements];
  uint8_t inline_permutation[kInlineElements * kInlineElements];
  double inline_mixing[4 * kInlineElements];
  uint8_t inline_exact[kInlineElements];

  __device__ Action action(int64_t e) const { return memory_actions ? memory_actions[e] : inline_actions[e]; }

  // Whether element e permutes pixels. Its matrix tells that too, in float64, of which most GPUs compute little.
  __device__ bool exact(int64_t e) const { return memory_actions ? memory_exact[e] : inline_exact[e]; }

  // The channel that element e puts in place c.
  __device__ int64_t channel(int64_t e, int64_t c) const {
    if (!permutation_size) return c;
    const int64_t entry = e * permutation_size + c % permutation_size;
    return c - c % permutation_size + (memory_permutation ? memory_permutation[entry] : inline_permutation[entry]);
  }

  // Entry (i, k) of the 2 × 2 matrix by which element e mixes pairs of channels.
  __device__ double mixing(int64_t e, int i, int k) const {
    const int64_t entry = 4 * e + 2 * i + k;
    return memory_mixing ? memory_mixing[entry] : inline_mixing[entry];
  }
};

// Copies bytes from the host to the device in the order of the stream. They travel as arguments of kernels, which a
// captured graph keeps.
void upload(void* to, const void* from, int64_t bytes, Stream stream);

}  // namespace equifast::cuda
