// Several layers of a network, one after the other, for kernels that convolve members where they are made.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/pixels.h"

namespace equifast::cpu {

namespace EQUIFAST_ISA {
// Defined in conv2d.cpp, which is compiled with other flags.
void conv2d(const Conv2d&, const float* image, float* row, float* out);
}  // namespace EQUIFAST_ISA

namespace {

// The layers in float32. What lies between two of them stays in scratch memory, with zeros around it where the second
// one pads.
class Layers {
 public:
  explicit Layers(const OrbitConv2dArgs& a) : a_(a) {
    int64_t width = a.conv.out_w, values = 0;
    for (int64_t l = 0; l < a.followers; ++l) {
      const Conv2d& k = a.following[l].conv;
      width = k.out_w > width ? k.out_w : width;
      values += k.C * k.H * k.W;
    }
    row_.resize(width * kBlock);
    frames_.resize(values);
    if (values) std::memset(frames_.data(), 0, values * sizeof(float));
  }

  // Convolves `image`, (C, H, W) with its padding, to the output of the last layer.
  void run(const float* image, float* out) {
    const Conv2d* k = &a_.conv;
    float* frame = frames_.data();
    for (int64_t l = 0; l < a_.followers; ++l) {
      const FollowingConv2d& next = a_.following[l];
      EQUIFAST_ISA::conv2d(*k, image, row_.data(), frame + next.padding_h * next.conv.W + next.padding_w);
      image = frame, k = &next.conv;
      frame += k->C * k->H * k->W;
    }
    EQUIFAST_ISA::conv2d(*k, image, row_.data(), out);
  }

 private:
  const OrbitConv2dArgs& a_;
  Buffer<float> row_, frames_;  // frames_: the input of each layer but the first, one after the other
};

}  // namespace
}  // namespace equifast::cpu
