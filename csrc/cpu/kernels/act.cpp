// act: one element for each image, out[b] = ρ S_e x[b] with e = element[b]; its adjoint applies the transpose.
#include "cpu/kernels/adjoint.h"

namespace equifast::cpu::EQUIFAST_ISA {

// Tasks (b, group, part).
void act(const WarpArgs& a, int64_t begin, int64_t end) {
  visit(a.warp.dtype, [&]<class T>(T) {
    const Warp& w = a.warp;
    const int64_t rows = (w.H + w.parts - 1) / w.parts;
    Sampler<T> sampler(w, false);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task % w.parts, group = task / w.parts % w.groups(), b = task / (w.parts * w.groups());
      const Site s = site_of(w, 0, b, group);
      T* out = static_cast<T*>(a.out) + (b * w.C + s.c) * w.H * w.W;
      sampler.write(a.in, s, a.element[b], part * rows, smaller((part + 1) * rows, w.H), nullptr, out);
    }
  });
}

// Tasks (b, group).
void act_adjoint(const WarpArgs& a, int64_t begin, int64_t end) {
  visit(a.warp.dtype, [&]<class T>(T) {
    const Warp& w = a.warp;
    Sampler<T> sampler(w, true);
    Buffer<Acc<T>> scratch;
    for (int64_t task = begin; task < end; ++task) {
      const Site s = site_of(w, 0, task / w.groups(), task % w.groups());
      T* out = static_cast<T*>(a.out) + (s.b * w.C + s.c) * w.H * w.W;
      write_adjoint<T>(w, sampler, scratch, a.in, s, a.element[s.b], nullptr, out);
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
