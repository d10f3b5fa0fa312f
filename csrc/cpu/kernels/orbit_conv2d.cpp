// orbit_conv2d: each member of the orbit is made in a core's own cache and convolved from there, by one layer or by
// several. The kernels of the torch op orbit_conv2d_direct.
#include "cpu/kernels/layers.h"
#include "cpu/kernels/members.h"

namespace equifast::cpu::EQUIFAST_ISA {

// Defined in a file of its own, which is compiled with other flags.
void conv2d_grad_weight(const Conv2d&, const float* image, const float* grad, float* scratch, float* weight,
                        float* bias);

// A task is (b) if it makes all elements, else (e, b).
void orbit_conv2d(const OrbitConv2dArgs& a, int64_t begin, int64_t end) {
  const Resample& r = a.resample;
  const int64_t size = a.output_values();
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
