// Direct convolution of one image with few channels, sixteen outputs in a vector: the first layer of a network.
#pragma once

#include <cstdint>

namespace equifast::cpu {

enum class Activation { none, relu, gelu, silu };

constexpr int64_t kBlock = 16;    // output channels in a vector
constexpr int64_t kMaxWidth = 7;  // of a kernel whose weight gradient is taken here, undilated along the row

struct Conv2d {
  int64_t C, H, W;  // the image, padding included
  int64_t out_channels, out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  const float* weight;  // (blocks, C, kernel_h, kernel_w, kBlock), zero past the last channel
  const float* bias;    // (blocks, kBlock)
  Activation activation;
  bool channels_last;  // of the output and of its gradient

  int64_t blocks() const { return (out_channels + kBlock - 1) / kBlock; }
  int64_t taps() const { return C * kernel_h * kernel_w; }
};

}  // namespace equifast::cpu
