// orbit_inner: out[b, e] = ⟨ρ S_e u, v⟩. A band of rows serves all elements while it is in the cache.
#include "cpu/kernels/resample.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

// The number of independent sums of an inner product: its order is the same for every instruction set, and no addition
// waits for the one before.
constexpr int64_t kLanes = 32;

// ⟨rows, v⟩, where rows are (height, width) values and the rows of v are `stride` pixels apart.
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

// A task is (b, channel block). It leaves a partial sum for each channel, so that the total does not depend on how the
// channels are cut into blocks.
void orbit_inner(const ResampleArgs& a, int64_t begin, int64_t end) {
  visit(a.resample.dtype, [&]<class T>(T) {
    const Resample& r = a.resample;
    Resampler<T> resampler(r, false);
    for (int64_t task = begin; task < end; ++task) {
      Site s = site_of(r, 0, task / r.channel_blocks(), task % r.channel_blocks());
      double* out = static_cast<double*>(a.out) + (s.b * r.C + s.c) * r.order;
      std::memset(out, 0, s.count * r.order * sizeof(double));
      if (r.reuse_bases) resampler.prepare(a.in, s);
      for (int64_t i = 0; i < r.H; i += kBand) {
        const int64_t stop = smaller(i + kBand, r.H);
        for (s.e = 0; s.e < r.order; ++s.e) {
          const Acc<T>* rows = resampler.band(a.in, s, s.e, i, stop);
          for (int64_t c = 0; c < s.count; ++c) {
            const T* v =
                static_cast<const T*>(a.second.data) + s.e * a.second.e + s.b * a.second.b + (s.c + c) * a.second.c;
            out[c * r.order + s.e] += dot(rows + c * (stop - i) * r.W, v + i * a.second.h, a.second.h, stop - i, r.W);
          }
        }
      }
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
