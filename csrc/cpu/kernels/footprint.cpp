// The transposed interpolation as a sparse matrix, which is made once a call: for each source pixel, the outputs that
// read it, and with what weight.
#include "cpu/kernels/interpolate.h"
#include "cpu/kernels/resample.h"

namespace equifast::cpu::EQUIFAST_ISA {

// A task is a base. There are two passes over the output pixels: the first counts how often each source pixel is read,
// the second lists the readers in the order of the output.
void footprint(const FootprintArgs& a, int64_t begin, int64_t end) {
  visit(a.resample.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    const int64_t H = a.resample.H, W = a.resample.W, plane = H * W;
    for (int64_t base = begin; base < end; ++base) {
      const Footprint& out = a.out[base];
      Interpolator<A> interpolator(a.bases[base], H, W, a.resample.border);
      int64_t* start = out.start;
      std::memset(start, 0, (plane + 1) * sizeof(int64_t));
      for (int64_t i = 0; i < H; ++i) {
        interpolator.row(i);
        interpolator.corners([&](int64_t, int64_t source, A) { ++start[source + 1]; });
      }
      for (int64_t s = 0; s < plane; ++s) start[s + 1] += start[s];
      for (int64_t i = 0; i < H; ++i) {
        interpolator.row(i);
        interpolator.corners([&](int64_t j, int64_t source, A weight) {
          const int64_t k = start[source]++;
          out.index[k] = static_cast<uint32_t>(i * W + j);
          static_cast<A*>(out.weight)[k] = weight;
        });
      }
      for (int64_t s = plane; s > 0; --s) start[s] = start[s - 1];
      start[0] = 0;
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
