// orbit_conv2d: each member of the orbit is made in a core's own cache and convolved from there, by one layer or by
// several. The kernels of the torch op orbit_conv2d_direct.
#include "cpu/kernels/conv2d.h"
#include "cpu/kernels/members.h"

namespace equifast::cpu::EQUIFAST_ISA {

// Defined in files of their own, which are compiled with other flags.
void conv2d(const Conv2d&, const float* image, float* row, float* out);
void conv2d_grad_weight(const Conv2d&, const float* image, const float* grad, float* scratch, float* weight,
                        float* bias);

namespace {

// Several layers one after the other. What lies between two of them stays in scratch memory, with zeros around it where
// the second one pads.
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
      conv2d(*k, image, row_.data(), frame + next.padding_h * next.conv.W + next.padding_w);
      image = frame, k = &next.conv;
      frame += k->C * k->H * k->W;
    }
    conv2d(*k, image, row_.data(), out);
  }

 private:
  const OrbitConv2dArgs& a_;
  Buffer<float> row_, frames_;  // frames_: the input of each layer but the first, one after the other
};

}  // namespace

// A task is (b) if it makes all elements, else (e, b).
void orbit_conv2d(const OrbitConv2dArgs& a, int64_t begin, int64_t end) {
  const Resample& r = a.resample;
  const Conv2d& last = a.followers ? a.following[a.followers - 1].conv : a.conv;
  const int64_t size = last.out_channels * last.out_h * last.out_w;
  Members<float> members(a);
  Layers layers(a);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task % r.B, first = task / r.B;
    members.prepare(b);
    for (int64_t e = first; e < (r.all_elements ? r.order : first + 1); ++e)
      layers.run(members.get(e), a.out + (e * r.B + b) * size);
  }
}

// A task is a run of a.samples images, which has partial sums of its own.
void orbit_conv2d_grad_weight(const OrbitConv2dArgs& a, int64_t begin, int64_t end) {
  const Resample& r = a.resample;
  const Conv2d& k = a.conv;
  const int64_t size = k.out_channels * k.out_h * k.out_w, weights = k.blocks() * k.taps() * kBlock;
  const int64_t partial = weights + k.blocks() * kBlock;
  Members<float> members(a);
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
