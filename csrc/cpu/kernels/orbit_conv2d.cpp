// orbit_conv2d: each member of the orbit is made in a core's own cache and convolved from there. The kernels of the
// torch op orbit_conv2d_direct.
#include "cpu/kernels/conv2d.h"
#include "cpu/kernels/resample.h"

namespace equifast::cpu::EQUIFAST_ISA {

// Defined in files of their own, which are compiled with other flags.
void conv2d(const Conv2d&, const float* image, float* row, float* out);
void conv2d_grad_weight(const Conv2d&, const float* image, const float* grad, float* scratch, float* weight,
                        float* bias);

namespace {

// Makes the members of an orbit one at a time, with zeros around them where the convolution pads.
class Members {
 public:
  explicit Members(const OrbitConv2dArgs& a)
      : a_(a),
        resampler_(a.resample, false),
        image_(a.in_w != 1 ? image_size() : 0),
        member_(image_size()),
        frame_(padded() ? frame_size() : 0) {
    if (padded()) std::memset(frame_.data(), 0, frame_size() * sizeof(float));
  }

  // Chooses the image that `get` reads.
  void prepare(int64_t b) {
    if (b == b_) return;
    b_ = b;
    in_ = a_.in;
    site_ = site_of(a_.resample, 0, b, 0);
    if (a_.in_w != 1) gather();
    if (a_.resample.reuse_bases) resampler_.prepare(in_, site_);
  }

  const float* get(int64_t e) {
    const Resample& r = a_.resample;
    const Conv2d& k = a_.conv;
    resampler_.write(in_, site_, e, 0, r.H, nullptr, member_.data());
    if (!padded()) return member_.data();
    for (int64_t c = 0; c < r.C; ++c)
      for (int64_t i = 0; i < r.H; ++i)
        std::memcpy(&frame_[(c * k.H + a_.padding_h + i) * k.W + a_.padding_w], &member_[(c * r.H + i) * r.W],
                    r.W * sizeof(float));
    return frame_.data();
  }

 private:
  bool padded() const { return a_.padding_h || a_.padding_w; }
  int64_t image_size() const { return a_.resample.C * a_.resample.H * a_.resample.W; }
  int64_t frame_size() const { return a_.conv.C * a_.conv.H * a_.conv.W; }

  // Copies the image to scratch, where the pixels of a row are neighbours.
  void gather() {
    const Resample& r = a_.resample;
    const float* image = static_cast<const float*>(in_.data) + site_.b * in_.b;
    float* to = image_.data();
    for (int64_t c = 0; c < r.C; ++c)
      for (int64_t i = 0; i < r.H; ++i, to += r.W) {
        const float* from = image + c * in_.c + i * in_.h;
        for (int64_t j = 0; j < r.W; ++j) to[j] = from[j * a_.in_w];
      }
    in_ = {image_.data(), 0, 0, r.H * r.W, r.W};
  }

  const OrbitConv2dArgs& a_;
  Resampler<float> resampler_;
  int64_t b_ = -1;
  Images in_;
  Site site_;
  Buffer<float> image_, member_, frame_;
};

}  // namespace

// A task is (b) if it makes all elements, else (e, b).
void orbit_conv2d(const OrbitConv2dArgs& a, int64_t begin, int64_t end) {
  const Resample& r = a.resample;
  const Conv2d& k = a.conv;
  const int64_t size = k.out_channels * k.out_h * k.out_w;
  Members members(a);
  Buffer<float> row(k.out_w * kBlock);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task % r.B, first = task / r.B;
    members.prepare(b);
    for (int64_t e = first; e < (r.all_elements ? r.order : first + 1); ++e)
      conv2d(k, members.get(e), row.data(), a.out + (e * r.B + b) * size);
  }
}

// A task is a run of a.samples images, which has partial sums of its own.
void orbit_conv2d_grad_weight(const OrbitConv2dArgs& a, int64_t begin, int64_t end) {
  const Resample& r = a.resample;
  const Conv2d& k = a.conv;
  const int64_t size = k.out_channels * k.out_h * k.out_w, weights = k.blocks() * k.taps() * kBlock;
  const int64_t partial = weights + k.blocks() * kBlock;
  Members members(a);
  Buffer<float> scratch(k.grad_rows() * k.out_w * kBlock);
  for (int64_t task = begin; task < end; ++task) {
    float* sums = a.out + task * partial;
    std::memset(sums, 0, partial * sizeof(float));
    for (int64_t b = task * a.samples; b < smaller((task + 1) * a.samples, r.B); ++b) {
      members.prepare(b);
      for (int64_t e = 0; e < r.order; ++e)
        conv2d_grad_weight(k, members.get(e), a.grad + (e * r.B + b) * size, scratch.data(), sums, sums + weights);
    }
  }
}

}  // namespace equifast::cpu::EQUIFAST_ISA
