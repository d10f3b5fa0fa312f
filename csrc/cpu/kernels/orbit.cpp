// orbit: every element applied to every image, out[e, b] = w[b, e] · ρ S_e x[b]; its adjoint applies each transposed.
#include "cpu/kernels/adjoint.h"

namespace equifast::cpu::EQUIFAST_ISA {

// A task is (b, channel block, run of rows) if it makes all elements, else (e, b, channel block, run of rows).
void orbit(const ResampleArgs& a, int64_t begin, int64_t end) {
  visit(a.resample.dtype, [&]<class T>(T) {
    const Resample& r = a.resample;
    const int64_t image = r.C * r.H * r.W, rows = (r.H + r.row_runs - 1) / r.row_runs;
    const auto* weights = static_cast<const Acc<T>*>(a.weights);
    T* out = static_cast<T*>(a.out);
    Resampler<T> resampler(r, false);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t run = task % r.row_runs, block = task / r.row_runs % r.channel_blocks();
      const int64_t b = task / (r.row_runs * r.channel_blocks()) % r.B,
                    first = task / (r.row_runs * r.channel_blocks() * r.B);
      const Site s = site_of(r, 0, b, block);
      if (r.reuse_bases) resampler.prepare(a.in, s);
      for (int64_t e = first; e < (r.all_elements ? r.order : first + 1); ++e)
        resampler.write(a.in, s, e, run * rows, smaller((run + 1) * rows, r.H),
                        weights ? weights + b * r.order + e : nullptr, out + (e * r.B + b) * image + s.c * r.H * r.W);
    }
    finish_lines();
  });
}

// A task is (e, b, channel block).
void orbit_adjoint(const ResampleArgs& a, int64_t begin, int64_t end) {
  visit(a.resample.dtype, [&]<class T>(T) {
    const Resample& r = a.resample;
    const auto* weights = static_cast<const Acc<T>*>(a.weights);
    Resampler<T> resampler(r, true);
    Buffer<Acc<T>> scratch;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task % r.channel_blocks(), b = task / r.channel_blocks() % r.B,
                    e = task / (r.channel_blocks() * r.B);
      const Site s = site_of(r, 0, b, block);
      T* out = static_cast<T*>(a.out) + ((e * r.B + b) * r.C + s.c) * r.H * r.W;
      write_adjoint(r, resampler, scratch, a.in, s, e, weights ? weights + b * r.order + e : nullptr, out);
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
