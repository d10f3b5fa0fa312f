// orbit_conv2d: each member of the orbit is made in a core's own cache and convolved from there.
#include "conv2d.h"
#include "sampler.h"

namespace equifast::cpu::EQUIFAST_ISA {

void conv2d(const Conv2d&, const float* image, float* row, float* out);

// Tasks (b) where each makes all elements, else (e, b).
void orbit_conv2d(const OrbitConv2dArgs& a, int64_t begin, int64_t end) {
  const Warp& w = a.warp;
  const Conv2d& k = a.conv;
  const int64_t plane = w.H * w.W, image = w.C * plane, size = k.out_channels * k.out_h * k.out_w;
  const bool padded = a.padding_h || a.padding_w;
  Sampler<float> sampler(w, false);
  Buffer<float> member(image), frame(padded ? k.C * k.H * k.W : 0), row(k.out_w * kBlock);
  if (padded) std::memset(frame.data(), 0, k.C * k.H * k.W * sizeof(float));
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task % w.B, first = task / w.B;
    const Site s = site_of(w, 0, b, 0);
    if (w.reuse) sampler.prepare(a.in, s);
    for (int64_t e = first; e < (w.whole ? w.order : first + 1); ++e) {
      sampler.write(a.in, s, e, 0, w.H, nullptr, member.data());
      if (padded)
        for (int64_t c = 0; c < w.C; ++c)
          for (int64_t i = 0; i < w.H; ++i)
            std::memcpy(&frame[(c * k.H + a.padding_h + i) * k.W + a.padding_w], &member[c * plane + i * w.W],
                        w.W * sizeof(float));
      conv2d(k, padded ? frame.data() : member.data(), row.data(), a.out + (e * w.B + b) * size);
    }
  }
}

}  // namespace equifast::cpu::EQUIFAST_ISA
