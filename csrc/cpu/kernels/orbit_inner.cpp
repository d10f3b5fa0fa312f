// orbit_inner: out[b, e] = ⟨ρ S_e u, v⟩, all elements while the image is in cache.
#include "cpu/kernels/resample.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

// Independent sums, so that the result neither depends on the instruction set nor waits for one addition at a time.
constexpr int64_t kLanes = 32;

template <class T>
double dot(const Acc<T>* rows, const T* v, int64_t stride, int64_t height, int64_t width) {
  Acc<T> lanes[kLanes] = {};
  for (int64_t i = 0; i < height; ++i, rows += width, v += stride) {
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes)
      for (int64_t l = 0; l < kLanes; ++l) lanes[l] += rows[j + l] * widen(v[j + l]);
    for (; j < width; ++j) lanes[j % kLanes] += rows[j] * widen(v[j]);
  }
  double sum = 0;
  for (int64_t l = 0; l < kLanes; ++l) sum += lanes[l];
  return sum;
}

}  // namespace

// Tasks (b, group); a partial sum for each channel, so that the total does not depend on how channels are grouped.
void orbit_inner(const WarpArgs& a, int64_t begin, int64_t end) {
  visit(a.warp.dtype, [&]<class T>(T) {
    const Warp& w = a.warp;
    Sampler<T> sampler(w, false);
    for (int64_t task = begin; task < end; ++task) {
      Site s = site_of(w, 0, task / w.groups(), task % w.groups());
      double* out = static_cast<double*>(a.out) + (s.b * w.C + s.c) * w.order;
      std::memset(out, 0, s.count * w.order * sizeof(double));
      if (w.reuse) sampler.prepare(a.in, s);
      for (int64_t i = 0; i < w.H; i += kBand) {
        const int64_t stop = smaller(i + kBand, w.H);
        for (s.e = 0; s.e < w.order; ++s.e) {
          const Acc<T>* rows = sampler.band(a.in, s, s.e, i, stop);
          for (int64_t c = 0; c < s.count; ++c) {
            const T* v =
                static_cast<const T*>(a.other.data) + s.e * a.other.e + s.b * a.other.b + (s.c + c) * a.other.c;
            out[c * w.order + s.e] += dot(rows + c * (stop - i) * w.W, v + i * a.other.h, a.other.h, stop - i, w.W);
          }
        }
      }
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
