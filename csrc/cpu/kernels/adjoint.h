// Transposed warps: the inverse permutation, then each source pixel gathers the few outputs that had read it.
#pragma once

#include "cpu/kernels/resample.h"

namespace equifast::cpu {
namespace {

// out (dense pixels) gets the transposed interpolation of plane, added to extra where given.
template <class A>
void gather(const Footprint& f, const A* plane, int64_t pixels, A* out, bool add) {
  const A* weight = static_cast<const A*>(f.weight);
  for (int64_t s = 0; s < pixels; ++s) {
    A sum = add ? out[s] : A(0);
    for (int64_t k = f.start[s]; k < f.start[s + 1]; ++k) sum += weight[k] * plane[f.index[k]];
    out[s] = sum;
  }
}

// One transposed warp of one image, to dense pixels at out.
template <class T>
void write_adjoint(const Warp& w, Sampler<T>& sampler, Buffer<Acc<T>>& scratch, const Images& in, const Site& s,
                   int64_t e, const Acc<T>* weight, T* out) {
  if (w.base[e] < 0) return sampler.write(in, s, e, 0, w.H, weight, out);
  const int64_t plane = sampler.plane();
  scratch.resize((s.count + 1) * plane);
  for (int64_t i = 0; i < w.H; i += kBand) {
    const int64_t stop = smaller(i + kBand, w.H), n = (stop - i) * w.W;
    const Acc<T>* rows = sampler.band(in, s, e, i, stop);
    for (int64_t c = 0; c < s.count; ++c) std::memcpy(&scratch[c * plane + i * w.W], rows + c * n, n * sizeof(Acc<T>));
  }
  Acc<T>* moved = &scratch[s.count * plane];
  for (int64_t c = 0; c < s.count; ++c) {
    gather(w.footprints[w.base[e]], &scratch[c * plane], plane, moved, false);
    if (weight)
      for (int64_t k = 0; k < plane; ++k) moved[k] *= *weight;
    narrow_row(moved, out + c * plane, plane);
  }
}

}  // namespace
}  // namespace equifast::cpu
