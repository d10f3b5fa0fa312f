// orbit_conv2d: each member of the orbit is made in a core's own cache and convolved from there.
#include "cpu/kernels/conv2d.h"
#include "cpu/kernels/resample.h"

namespace equifast::cpu::EQUIFAST_ISA {

void conv2d(const Conv2d&, const float* image, float* row, float* out);
void conv2d_weight(const Conv2d&, const float* image, const float* grad, float* row, float* weight, float* bias);

namespace {

// Makes members of an orbit one at a time, with zeros around them where the convolution pads.
class Members {
 public:
  explicit Members(const OrbitConv2dArgs& a)
      : a_(a), sampler_(a.warp, false), member_(a.warp.C * a.warp.H * a.warp.W), frame_(padded() ? frame_size() : 0) {
    if (padded()) std::memset(frame_.data(), 0, frame_size() * sizeof(float));
  }

  void prepare(int64_t b) {
    if (a_.warp.reuse) sampler_.prepare(a_.in, site_of(a_.warp, 0, b, 0));
  }

  const float* get(int64_t e, int64_t b) {
    const Warp& w = a_.warp;
    const Conv2d& k = a_.conv;
    sampler_.write(a_.in, site_of(w, 0, b, 0), e, 0, w.H, nullptr, member_.data());
    if (!padded()) return member_.data();
    for (int64_t c = 0; c < w.C; ++c)
      for (int64_t i = 0; i < w.H; ++i)
        std::memcpy(&frame_[(c * k.H + a_.padding_h + i) * k.W + a_.padding_w], &member_[(c * w.H + i) * w.W],
                    w.W * sizeof(float));
    return frame_.data();
  }

 private:
  bool padded() const { return a_.padding_h || a_.padding_w; }
  int64_t frame_size() const { return a_.conv.C * a_.conv.H * a_.conv.W; }

  const OrbitConv2dArgs& a_;
  Sampler<float> sampler_;
  Buffer<float> member_, frame_;
};

}  // namespace

// Tasks (b) where each makes all elements, else (e, b).
void orbit_conv2d(const OrbitConv2dArgs& a, int64_t begin, int64_t end) {
  const Warp& w = a.warp;
  const Conv2d& k = a.conv;
  const int64_t size = k.out_channels * k.out_h * k.out_w;
  Members members(a);
  Buffer<float> row(k.out_w * kBlock);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task % w.B, first = task / w.B;
    members.prepare(b);
    for (int64_t e = first; e < (w.whole ? w.order : first + 1); ++e)
      conv2d(k, members.get(e, b), row.data(), a.out + (e * w.B + b) * size);
  }
}

// Tasks of a.samples images, each with its own partial sums.
void orbit_conv2d_weight(const OrbitConv2dArgs& a, int64_t begin, int64_t end) {
  const Warp& w = a.warp;
  const Conv2d& k = a.conv;
  const int64_t size = k.out_channels * k.out_h * k.out_w, weights = k.blocks() * k.taps() * kBlock;
  const int64_t partial = weights + k.blocks() * kBlock;
  Members members(a);
  Buffer<float> row(k.out_w * kBlock);
  for (int64_t task = begin; task < end; ++task) {
    float* sums = a.out + task * partial;
    std::memset(sums, 0, partial * sizeof(float));
    for (int64_t b = task * a.samples; b < smaller((task + 1) * a.samples, w.B); ++b) {
      members.prepare(b);
      for (int64_t e = 0; e < w.order; ++e)
        conv2d_weight(k, members.get(e, b), a.grad + (e * w.B + b) * size, row.data(), sums, sums + weights);
    }
  }
}

}  // namespace equifast::cpu::EQUIFAST_ISA
