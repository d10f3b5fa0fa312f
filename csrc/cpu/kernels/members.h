// The members of an orbit, for kernels that convolve them where they are made.
#pragma once

#include "cpu/kernels/gather.h"
#include "cpu/kernels/resample.h"

namespace equifast::cpu {
namespace {

// Makes the members of an orbit one at a time, with zeros around them where the convolution pads.
template <class T>
class Members {
 public:
  explicit Members(const OrbitConv2dArgs& a)
      : a_(a),
        resampler_(a.resample, false),
        dense_(a.in, a.resample),
        member_(image_size()),
        frame_(padded() ? frame_size() : 0) {
    if (padded()) std::memset(frame_.data(), 0, frame_size() * sizeof(T));
  }

  // Chooses the image that all others read.
  void prepare(int64_t b) {
    if (b == b_) return;
    b_ = b;
    in_ = dense_.of(b);
    site_ = site_of(a_.resample, 0, b, 0);
    if (a_.resample.reuse_bases) resampler_.prepare(in_, site_);
  }

  // Makes a member, contiguous (C, H, W).
  const T* plain(int64_t e) {
    resampler_.write(in_, site_, e, 0, a_.resample.H, nullptr, member_.data());
    return member_.data();
  }

  // Makes a member with its padding.
  const T* get(int64_t e) {
    const Resample& r = a_.resample;
    const Conv2d& k = a_.conv;
    const T* member = plain(e);
    if (!padded()) return member;
    for (int64_t c = 0; c < r.C; ++c)
      for (int64_t i = 0; i < r.H; ++i)
        std::memcpy(&frame_[(c * k.H + a_.padding_h + i) * k.W + a_.padding_w], member + (c * r.H + i) * r.W,
                    r.W * sizeof(T));
    return frame_.data();
  }

 private:
  bool padded() const { return a_.padding_h || a_.padding_w; }
  int64_t image_size() const { return a_.resample.C * a_.resample.H * a_.resample.W; }
  int64_t frame_size() const { return a_.conv.C * a_.conv.H * a_.conv.W; }

  const OrbitConv2dArgs& a_;
  Resampler<T> resampler_;
  int64_t b_ = -1;
  Images in_ = {};
  Site site_ = {};
  DenseRows<T> dense_;
  Buffer<T> member_, frame_;
};

}  // namespace
}  // namespace equifast::cpu
