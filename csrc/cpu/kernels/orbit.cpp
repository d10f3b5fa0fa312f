// orbit: every element applied to every image, out[e, b] = w[b, e] · ρ S_e x[b]; its adjoint applies each transposed.
#include "cpu/kernels/adjoint.h"

namespace equifast::cpu::EQUIFAST_ISA {

// Tasks (b, group) where each makes all elements, else (e, b, group, part).
void orbit(const WarpArgs& a, int64_t begin, int64_t end) {
  visit(a.warp.dtype, [&]<class T>(T) {
    const Warp& w = a.warp;
    const int64_t image = w.C * w.H * w.W, rows = (w.H + w.parts - 1) / w.parts;
    const auto* weights = static_cast<const Acc<T>*>(a.weights);
    T* out = static_cast<T*>(a.out);
    Sampler<T> sampler(w, false);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task % w.parts, group = task / w.parts % w.groups();
      const int64_t b = task / (w.parts * w.groups()) % w.B, first = task / (w.parts * w.groups() * w.B);
      const Site s = site_of(w, 0, b, group);
      if (w.reuse) sampler.prepare(a.in, s);
      for (int64_t e = first; e < (w.whole ? w.order : first + 1); ++e)
        sampler.write(a.in, s, e, part * rows, smaller((part + 1) * rows, w.H),
                      weights ? weights + b * w.order + e : nullptr, out + (e * w.B + b) * image + s.c * w.H * w.W);
    }
  });
}

// Tasks (e, b, group).
void orbit_adjoint(const WarpArgs& a, int64_t begin, int64_t end) {
  visit(a.warp.dtype, [&]<class T>(T) {
    const Warp& w = a.warp;
    const auto* weights = static_cast<const Acc<T>*>(a.weights);
    Sampler<T> sampler(w, true);
    Buffer<Acc<T>> scratch;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task % w.groups(), b = task / w.groups() % w.B, e = task / (w.groups() * w.B);
      const Site s = site_of(w, 0, b, group);
      T* out = static_cast<T*>(a.out) + ((e * w.B + b) * w.C + s.c) * w.H * w.W;
      write_adjoint(w, sampler, scratch, a.in, s, e, weights ? weights + b * w.order + e : nullptr, out);
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
