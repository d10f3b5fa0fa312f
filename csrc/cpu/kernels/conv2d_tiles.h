// How the direct convolution of bfloat16 images lies in the tiles of AMX. A tile has up to 16 rows of kRun values.
//
// A pixel is an integer that holds its channels, and zeros up to a power of two of them. The pixels that one row of the
// kernel reads for one output are cut into runs of kRun values, again with zeros at the end. So an output is the sum,
// over the rows of the kernel and over the runs of each, of the products of a run of pixels and a run of weights. No
// value that an output must not read is multiplied by a weight of zero: it could be NaN.
#pragma once

#include "cpu/kernels/conv2d.h"

namespace equifast::cpu {

constexpr int64_t kRun = 32;
constexpr int64_t kTileRows = 16;
constexpr int64_t kTileChannels = 4;  // the most channels of an image that fit a pixel

inline int64_t pixel_values(int64_t channels) { return channels == 3 ? 4 : channels; }

struct Conv2dTiles {
  Conv2d conv;
  const uint16_t* weight;  // (blocks, kernel_h, runs, kRun / 2, kBlock, 2); without values, there are no such tiles
  int64_t padding_h, padding_w;

  int64_t run_pixels() const { return kRun / pixel_values(conv.C); }
  int64_t runs() const { return (conv.kernel_w + run_pixels() - 1) / run_pixels(); }
  int64_t block_values() const { return conv.kernel_h * runs() * kRun * kBlock; }
  int64_t frame_values() const { return conv.H * conv.W * pixel_values(conv.C); }
  int64_t run_values() const { return span() * runs() * conv.out_w * kRun; }
  // Rows of the image that one row of outputs spans.
  int64_t span() const { return (conv.kernel_h - 1) * conv.dilation_h + 1; }
};

}  // namespace equifast::cpu
