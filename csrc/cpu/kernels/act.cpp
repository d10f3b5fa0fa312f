// act: one element for each image, out[b] = ρ S_e x[b] with e = element[b]; its adjoint applies the transpose. Where
// there are more elements than images, the images are taken from the beginning again.
#include "cpu/kernels/adjoint.h"

namespace equifast::cpu::EQUIFAST_ISA {

// A task is (b, channel block, run of rows).
void act(const ResampleArgs& a, int64_t begin, int64_t end) {
  visit(a.resample.dtype, [&]<class T>(T) {
    const Resample& r = a.resample;
    const int64_t rows = (r.H + r.row_runs - 1) / r.row_runs;
    Resampler<T> resampler(r, false);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t run = task % r.row_runs, block = task / r.row_runs % r.channel_blocks(),
                    b = task / (r.row_runs * r.channel_blocks());
      const Site s = site_of(r, 0, b % a.images, block);
      T* out = static_cast<T*>(a.out) + (b * r.C + s.c) * r.H * r.W;
      resampler.write(a.in, s, a.element[b], run * rows, smaller((run + 1) * rows, r.H), nullptr, out);
    }
  });
}

// A task is (b, channel block).
void act_adjoint(const ResampleArgs& a, int64_t begin, int64_t end) {
  visit(a.resample.dtype, [&]<class T>(T) {
    const Resample& r = a.resample;
    Resampler<T> resampler(r, true);
    Buffer<Acc<T>> scratch;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / r.channel_blocks();
      const Site s = site_of(r, 0, b % a.images, task % r.channel_blocks());
      T* out = static_cast<T*>(a.out) + (b * r.C + s.c) * r.H * r.W;
      write_adjoint<T>(r, resampler, scratch, a.in, s, a.element[b], nullptr, out);
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
