// A group's action on images of one shape, as an argument of kernels: in the argument itself if the group is small, so
// that nothing has to be copied to the device, or kept there while a captured graph may run again.
#pragma once

#include <type_traits>

#include "cuda/runtime/hardware.h"
#include "geometry.h"

namespace equifast::cuda {

struct Table {
  static constexpr int kNear = 24;  // elements that fit

  int32_t order, block;  // elements; channels that a permutation permutes, or 0
  bool border, mixes;
  bool interpolates, turns;  // whether any element does; whether any exact one turns by a quarter
  // Of more elements, in the device's memory; else null.
  const Action* far_rows;
  const int32_t* far_permutation;
  const double* far_mixing;
  Action near_rows[kNear];
  uint8_t near_permutation[kNear * kNear];
  double near_mixing[4 * kNear];

  __device__ Action row(int64_t e) const { return far_rows ? far_rows[e] : near_rows[e]; }

  // The channel that element e puts in place c.
  __device__ int64_t channel(int64_t e, int64_t c) const {
    if (!block) return c;
    const int64_t at = e * block + c % block;
    return c - c % block + (far_permutation ? far_permutation[at] : near_permutation[at]);
  }

  // Entry (i, k) of the 2 × 2 matrix by which it mixes pairs of channels.
  __device__ double mixing(int64_t e, int i, int k) const {
    const int64_t at = 4 * e + 2 * i + k;
    return far_mixing ? far_mixing[at] : near_mixing[at];
  }
};

// Writes bytes from the host to the device in the order of the stream: as arguments of kernels, which a graph keeps.
void upload(void* to, const void* from, int64_t bytes, Stream stream);

}  // namespace equifast::cuda
