// The transpose of a resample. The inverse permutation comes first. Then each source pixel gathers the few outputs that
// had read it; or each output is spread over the source pixels that it had read, which adds the same products in the
// same order.
#pragma once

#include "cpu/kernels/resample.h"

namespace equifast::cpu {
namespace {

// out = the transposed interpolation of `plane`; with `add`, out is increased by it. Both have `pixels` pixels of C
// neighbouring channels.
template <class A>
void gather(const Footprint& f, const A* plane, int64_t pixels, int64_t C, A* out, bool add) {
  const A* weight = static_cast<const A*>(f.weight);
  for (int64_t s = 0; s < pixels; ++s) {
    if (C > 1) {
      A* sums = out + s * C;
      if (!add) std::memset(sums, 0, C * sizeof(A));
      for (int64_t k = f.start[s]; k < f.start[s + 1]; ++k) {
        const A* pixel = plane + f.index[k] * C;
#pragma GCC ivdep
        for (int64_t c = 0; c < C; ++c) sums[c] += weight[k] * pixel[c];
      }
      continue;
    }
    A sum = add ? out[s] : A(0);
    for (int64_t k = f.start[s]; k < f.start[s + 1]; ++k) sum += weight[k] * plane[f.index[k]];
    out[s] = sum;
  }
}

// Writes the transpose of element e for one image, times the weight if there is one, as Resampler::write does. Without
// footprints, outputs are spread: then nothing has to be made for an element that few images have.
template <class T>
void write_adjoint(const Resample& r, Resampler<T>& resampler, Buffer<Acc<T>>& scratch, const Images& in, const Site& s,
                   int64_t e, const Acc<T>* weight, T* out) {
  if (r.base[e] < 0) return resampler.write(in, s, e, 0, r.H, weight, out);
  const int64_t plane = resampler.plane();
  const int64_t parts = resampler.parts(s), pixels = r.H * r.W;
  scratch.resize((parts + (r.footprints ? 1 : parts)) * plane);
  for (int64_t i = 0; i < r.H; i += kBand) {
    const int64_t stop = smaller(i + kBand, r.H), n = (stop - i) * resampler.row_values();
    const Acc<T>* rows = resampler.band(in, s, e, i, stop);
    for (int64_t c = 0; c < parts; ++c)
      std::memcpy(&scratch[c * plane + i * resampler.row_values()], rows + c * n, n * sizeof(Acc<T>));
  }
  Acc<T>* sums = &scratch[parts * plane];
  if (!r.footprints) {
    std::memset(sums, 0, parts * plane * sizeof(Acc<T>));
    Interpolator<Acc<T>>& interpolator = resampler.interpolator_of_base(r.base[e]);
    for (int64_t i = 0; i < r.H; ++i) {
      interpolator.row(i);
      for (int64_t c = 0; c < parts; ++c)
        interpolator.spread(&scratch[c * plane + i * resampler.row_values()], r.interleaved, sums + c * plane);
    }
  }
  for (int64_t c = 0; c < parts; ++c) {
    Acc<T>* moved = r.footprints ? sums : sums + c * plane;
    if (r.footprints) gather(r.footprints[r.base[e]], &scratch[c * plane], pixels, r.interleaved, moved, false);
    if (weight)
      for (int64_t k = 0; k < plane; ++k) moved[k] *= *weight;
    narrow_row(moved, out + c * plane, plane);
  }
}

}  // namespace
}  // namespace equifast::cpu
