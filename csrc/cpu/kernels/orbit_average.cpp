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
    const int64_t plane = resampler.plane(), row = resampler.row_values();
    for (int64_t task = begin; task < end; ++task) {
      Site s = site_of(r, 0, task / r.channel_blocks(), task % r.channel_blocks());
      T* out = static_cast<T*>(a.out) + (s.b * r.C + s.c) * r.H * r.W;
      if (r.reuse_bases) resampler.prepare(a.in, s);
      for (int64_t i = 0; i < r.H; i += kBand) {
        const int64_t stop = smaller(i + kBand, r.H), n = (stop - i) * row, parts = resampler.parts(s);
        std::memset(total.data(), 0, parts * n * sizeof(A));
        for (s.e = 0; s.e < r.order; ++s.e) {
          const A weight = weights ? weights[s.b * r.order + s.e] : A(1);
          const A* rows = resampler.band(a.in, s, s.e, i, stop);
          for (int64_t k = 0; k < parts * n; ++k) total[k] += weight * rows[k];
        }
        for (int64_t c = 0; c < parts; ++c) narrow_row(&total[c * n], out + c * plane + i * row, n);
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
    const int64_t plane = resampler.plane(), row = resampler.row_values(), sum_size = r.channel_block * r.H * r.W;
    Buffer<A> sums((r.bases + 1) * sum_size);  // one a base; of exact elements first
    for (int64_t task = begin; task < end; ++task) {
      Site s = site_of(r, 0, task / r.channel_blocks(), task % r.channel_blocks());
      const int64_t parts = resampler.parts(s);
      std::memset(sums.data(), 0, (r.bases + 1) * sum_size * sizeof(A));
      for (s.e = 0; s.e < r.order; ++s.e) {
        const A weight = weights ? weights[s.b * r.order + s.e] : A(1);
        A* sum = &sums[(r.base[s.e] + 1) * sum_size];
        for (int64_t i = 0; i < r.H; i += kBand) {
          const int64_t stop = smaller(i + kBand, r.H), n = (stop - i) * row;
          const A* rows = resampler.band(a.in, s, s.e, i, stop);
          for (int64_t c = 0; c < parts; ++c)
            for (int64_t k = 0; k < n; ++k) sum[c * plane + i * row + k] += weight * rows[c * n + k];
        }
      }
      T* out = static_cast<T*>(a.out) + (s.b * r.C + s.c) * r.H * r.W;
      for (int64_t c = 0; c < parts; ++c) {
        A* total = &sums[c * plane];
        for (int64_t k = 0; k < r.bases; ++k)
          gather(r.footprints[k], total + (k + 1) * sum_size, r.H * r.W, r.interleaved, total, true);
        narrow_row(total, out + c * plane, plane);
      }
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
