// orbit_average: out[b] = Σ_e w[b, e] · ρ S_e y[e, b]; its adjoint sums the transposes, each distinct base gathered
// once.
#include "cpu/kernels/adjoint.h"

namespace equifast::cpu::EQUIFAST_ISA {

// Tasks (b, group).
void orbit_average(const WarpArgs& a, int64_t begin, int64_t end) {
  visit(a.warp.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    const Warp& w = a.warp;
    const auto* weights = static_cast<const A*>(a.weights);
    Sampler<T> sampler(w, false);
    Buffer<A> total(w.group * kBand * w.W);
    for (int64_t task = begin; task < end; ++task) {
      Site s = site_of(w, 0, task / w.groups(), task % w.groups());
      T* out = static_cast<T*>(a.out) + (s.b * w.C + s.c) * sampler.plane();
      if (w.reuse) sampler.prepare(a.in, s);
      for (int64_t i = 0; i < w.H; i += kBand) {
        const int64_t stop = smaller(i + kBand, w.H), n = (stop - i) * w.W;
        std::memset(total.data(), 0, s.count * n * sizeof(A));
        for (s.e = 0; s.e < w.order; ++s.e) {
          const A weight = weights ? weights[s.b * w.order + s.e] : A(1);
          const A* rows = sampler.band(a.in, s, s.e, i, stop);
          for (int64_t k = 0; k < s.count * n; ++k) total[k] += weight * rows[k];
        }
        for (int64_t c = 0; c < s.count; ++c) narrow_row(&total[c * n], out + c * sampler.plane() + i * w.W, n);
      }
    }
  });
}

// Tasks (b, group).
void orbit_average_adjoint(const WarpArgs& a, int64_t begin, int64_t end) {
  visit(a.warp.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    const Warp& w = a.warp;
    const auto* weights = static_cast<const A*>(a.weights);
    Sampler<T> sampler(w, true);
    const int64_t plane = sampler.plane();
    Buffer<A> sums((w.bases + 1) * w.group * plane);  // before the transposed interpolation: exact ones first
    for (int64_t task = begin; task < end; ++task) {
      Site s = site_of(w, 0, task / w.groups(), task % w.groups());
      std::memset(sums.data(), 0, (w.bases + 1) * w.group * plane * sizeof(A));
      for (s.e = 0; s.e < w.order; ++s.e) {
        const A weight = weights ? weights[s.b * w.order + s.e] : A(1);
        A* sum = &sums[(w.base[s.e] + 1) * w.group * plane];
        for (int64_t i = 0; i < w.H; i += kBand) {
          const int64_t stop = smaller(i + kBand, w.H), n = (stop - i) * w.W;
          const A* rows = sampler.band(a.in, s, s.e, i, stop);
          for (int64_t c = 0; c < s.count; ++c)
            for (int64_t k = 0; k < n; ++k) sum[c * plane + i * w.W + k] += weight * rows[c * n + k];
        }
      }
      for (int64_t c = 0; c < s.count; ++c) {
        for (int64_t k = 0; k < w.bases; ++k)
          gather(w.footprints[k], &sums[((k + 1) * w.group + c) * plane], plane, &sums[c * plane], true);
        narrow_row(&sums[c * plane], static_cast<T*>(a.out) + (s.b * w.C + s.c + c) * plane, plane);
      }
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
