// How the direct convolution of bfloat16 images lies in the tiles of AMX. A tile has up to 16 rows of kRun values.
//
// A pixel is its channels, and zeros up to a power of two of them. The pixels that one row of the kernel reads for one
// output are cut into runs of kRun values. So an output is the sum, over the rows of the kernel and over the runs of
// each, of the products of a run of pixels and a run of weights. The last run may be shorter. No value that an output
// must not read is multiplied by a weight of zero: it could be NaN.
#pragma once

#include "cpu/kernels/conv2d.h"

namespace equifast::cpu {

constexpr int64_t kRun = 32;
constexpr int64_t kTileRows = 16;
constexpr int64_t kTileChannels = kRun;  // the most channels of an image: a pixel fits a run

struct Conv2dTiles {
  Conv2d conv;
  const uint16_t* weight;  // (blocks, kernel_h, runs, kRun / 2, kBlock, 2), zero where a run is shorter
  int64_t padding_h, padding_w;

  int64_t pixel_values() const {
    int64_t values = 1;
    while (values < conv.C) values *= 2;
    return values;
  }
  int64_t run_pixels() const { return kRun / pixel_values(); }
  int64_t runs() const { return (conv.kernel_w + run_pixels() - 1) / run_pixels(); }
  int64_t block_values() const { return conv.kernel_h * runs() * kRun * kBlock; }

  // The frame is the image with its padding, (H, frame_row). Its rows are whole runs, and so whole cache lines.
  int64_t frame_row() const { return (conv.W * pixel_values() + kRun - 1) / kRun * kRun; }
  int64_t frame_values() const { return conv.H * frame_row(); }

  // Whether tiles are loaded from the frame, where no run crosses cache lines. Else each run is copied first.
  bool reads_frame() const {
    return pixel_values() >= kRun / 2 && conv.dilation_w == 1 && conv.stride_w * pixel_values() % kRun == 0;
  }
  // The copies are a ring of rows, (span, runs, W', kRun), with zeros where a run is shorter.
  int64_t copy_row() const { return runs() * conv.out_w * kRun; }
  int64_t copied_values() const { return reads_frame() ? 0 : span() * copy_row(); }
  // Rows of the image that one row of outputs spans.
  int64_t span() const { return (conv.kernel_h - 1) * conv.dilation_h + 1; }
};

}  // namespace equifast::cpu
