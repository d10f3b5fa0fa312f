// The direct convolution of one image that has few channels: the first layer of a network. Sixteen output channels are
// computed together, in a vector.
#pragma once

#include "common/types.h"

namespace equifast::cpu {

constexpr int64_t kBlock = 16;    // output channels in a vector
constexpr int64_t kMaxWidth = 7;  // columns of the widest kernel whose weight gradient is computed here; undilated
// Pixels of a block of gradients at a time, unless a row has more: with the rows of the image that they meet, they fit
// the L1 cache.
constexpr int64_t kGradPixels = 256;

struct Conv2d {
  int64_t C, H, W;  // the image, with its padding
  int64_t out_channels, out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  const float* weight;  // (blocks, C, kernel_h, kernel_w, kBlock), zero past the last channel
  const float* bias;    // (blocks, kBlock)
  Activation activation;
  bool channels_last;  // of the output and of its gradient
  // From a row of the output to the next, and from a plane to the next. They are for outputs that are not
  // channels_last.
  int64_t row_step, plane_step;

  int64_t blocks() const { return (out_channels + kBlock - 1) / kBlock; }
  int64_t taps() const { return C * kernel_h * kernel_w; }
  // How many rows of gradients the weight gradient sums at a time.
  int64_t grad_rows() const { return kGradPixels > out_w ? kGradPixels / out_w : 1; }
};

}  // namespace equifast::cpu
