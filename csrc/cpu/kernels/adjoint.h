// The transpose of a resample. The inverse permutation comes first; then each source pixel gathers the few outputs that
// had read it.
#pragma once

#include "cpu/kernels/resample.h"

namespace equifast::cpu {
namespace {

// out = the transposed interpolation of `plane`; with `add`, out is increased by it. Both have `pixels` values.
template <class A>
void gather(const Footprint& f, const A* plane, int64_t pixels, A* out, bool add) {
  const A* weight = static_cast<const A*>(f.weight);
  for (int64_t s = 0; s < pixels; ++s) {
    A sum = add ? out[s] : A(0);
    for (int64_t k = f.start[s]; k < f.start[s + 1]; ++k) sum += weight[k] * plane[f.index[k]];
    out[s] = sum;
  }
}

// Writes the transpose of element e for one image, times the weight if there is one, to contiguous pixels at out.
template <class T>
void write_adjoint(const Resample& r, Resampler<T>& resampler, Buffer<Acc<T>>& scratch, const Images& in, const Site& s,
                   int64_t e, const Acc<T>* weight, T* out) {
  if (r.base[e] < 0) return resampler.write(in, s, e, 0, r.H, weight, out);
  const int64_t plane = resampler.plane();
  scratch.resize((s.count + 1) * plane);
  for (int64_t i = 0; i < r.H; i += kBand) {
    const int64_t stop = smaller(i + kBand, r.H), n = (stop - i) * r.W;
    const Acc<T>* rows = resampler.band(in, s, e, i, stop);
    for (int64_t c = 0; c < s.count; ++c) std::memcpy(&scratch[c * plane + i * r.W], rows + c * n, n * sizeof(Acc<T>));
  }
  Acc<T>* moved = &scratch[s.count * plane];
  for (int64_t c = 0; c < s.count; ++c) {
    gather(r.footprints[r.base[e]], &scratch[c * plane], plane, moved, false);
    if (weight)
      for (int64_t k = 0; k < plane; ++k) moved[k] *= *weight;
    narrow_row(moved, out + c * plane, plane);
  }
}

}  // namespace
}  // namespace equifast::cpu
