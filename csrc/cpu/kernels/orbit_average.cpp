// orbit_average: out[b] = Σ_e w[b, e] · ρ S_e y[e, b]. Its adjoint sums the transposes: what the elements of one base
// give is added up first, and then gathered once.
#include "cpu/kernels/adjoint.h"

namespace equifast::cpu::EQUIFAST_ISA {

// A task is (b, channel block).
void orbit_average(const ResampleArgs& a, int64_t begin, int64_t end) {
  visit(a.resample.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    const Resample& r = a.resample;
    const auto* weights = static_cast<const A*>(a.weights);
    Resampler<T> resampler(r, false);
    Buffer<A> total(r.channel_block * kBand * r.W);
    for (int64_t task = begin; task < end; ++task) {
      Site s = site_of(r, 0, task / r.channel_blocks(), task % r.channel_blocks());
      T* out = static_cast<T*>(a.out) + (s.b * r.C + s.c) * resampler.plane();
      if (r.reuse_bases) resampler.prepare(a.in, s);
      for (int64_t i = 0; i < r.H; i += kBand) {
        const int64_t stop = smaller(i + kBand, r.H), n = (stop - i) * r.W;
        std::memset(total.data(), 0, s.count * n * sizeof(A));
        for (s.e = 0; s.e < r.order; ++s.e) {
          const A weight = weights ? weights[s.b * r.order + s.e] : A(1);
          const A* rows = resampler.band(a.in, s, s.e, i, stop);
          for (int64_t k = 0; k < s.count * n; ++k) total[k] += weight * rows[k];
        }
        for (int64_t c = 0; c < s.count; ++c) narrow_row(&total[c * n], out + c * resampler.plane() + i * r.W, n);
      }
    }
  });
}

// A task is (b, channel block).
void orbit_average_adjoint(const ResampleArgs& a, int64_t begin, int64_t end) {
  visit(a.resample.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    const Resample& r = a.resample;
    const auto* weights = static_cast<const A*>(a.weights);
    Resampler<T> resampler(r, true);
    const int64_t plane = resampler.plane();
    Buffer<A> sums((r.bases + 1) * r.channel_block * plane);  // one a base; of exact elements first
    for (int64_t task = begin; task < end; ++task) {
      Site s = site_of(r, 0, task / r.channel_blocks(), task % r.channel_blocks());
      std::memset(sums.data(), 0, (r.bases + 1) * r.channel_block * plane * sizeof(A));
      for (s.e = 0; s.e < r.order; ++s.e) {
        const A weight = weights ? weights[s.b * r.order + s.e] : A(1);
        A* sum = &sums[(r.base[s.e] + 1) * r.channel_block * plane];
        for (int64_t i = 0; i < r.H; i += kBand) {
          const int64_t stop = smaller(i + kBand, r.H), n = (stop - i) * r.W;
          const A* rows = resampler.band(a.in, s, s.e, i, stop);
          for (int64_t c = 0; c < s.count; ++c)
            for (int64_t k = 0; k < n; ++k) sum[c * plane + i * r.W + k] += weight * rows[c * n + k];
        }
      }
      for (int64_t c = 0; c < s.count; ++c) {
        for (int64_t k = 0; k < r.bases; ++k)
          gather(r.footprints[k], &sums[((k + 1) * r.channel_block + c) * plane], plane, &sums[c * plane], true);
        narrow_row(&sums[c * plane], static_cast<T*>(a.out) + (s.b * r.C + s.c + c) * plane, plane);
      }
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
