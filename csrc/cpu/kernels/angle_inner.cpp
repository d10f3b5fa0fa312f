// angle_inner: the derivatives of ⟨grad, canonical image⟩ by the angle and by the reflection flag of each image.
#include "cpu/kernels/gather.h"
#include "cpu/kernels/resample.h"
#include "cpu/kernels/slopes.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

template <class A>
double total(const SlopeSums<A>& sums) {
  double sum = 0;
  for (const A lane : sums) sum += lane;
  return sum;
}

template <class T>
class AngleInner {
 public:
  using A = Acc<T>;

  explicit AngleInner(const AngleArgs& a)
      : a_(a),
        r_(a.resample),
        resampler_(r_, true),
        dense_x_(a.in, r_),
        dense_image_(a.image, r_),
        dense_grad_(a.grad, r_),
        padded_(r_.channel_block, r_.H, r_.W),
        u_(r_.W),
        rows_(2 * (r_.W + kSlopeLanes)) {
    for (int64_t j = 0; j < r_.W; ++j) u_[j] = j - A(r_.W - 1) / 2;
  }

  // Writes the two derivatives for each channel of an image, (count, 2). Each channel has sums of its own, so that the
  // total does not depend on how the channels are cut into blocks.
  void run(const Site& s, double* out) {
    x_ = dense_x_.of(s.b);
    image_ = dense_image_.of(s.b);
    grad_ = dense_grad_.of(s.b);
    const Action& action = r_.actions[s.e];
    if (action.exact())
      for (int64_t c = 0; c < s.count; ++c) out[2 * c] = by_angle_exact({s.e, s.b, s.c + c, 1});
    else by_angle(s, action.matrix(), out);
    for (int64_t c = 0; c < s.count; ++c) out[2 * c + 1] = by_flag(s, s.c + c);
  }

 private:
  // The gradient is moved back to the pixels that were read. There the slope along an axis is the mean of those to
  // either side, which is half the difference of the two neighbours.
  double by_angle_exact(const Site& s) {
    padded_.fill(0, plane_of(x_, s.b, s.c), x_.h, r_.border);
    double sum = 0;
    for (int64_t i = 0; i < r_.H; i += kBand) {
      const int64_t stop = smaller(i + kBand, r_.H);
      const A* grad = resampler_.band(grad_, s, s.e, i, stop);
      SlopeSums<A> sums = {};
      for (int64_t k = i; k < stop; ++k, grad += r_.W) {
        const A *here = padded_.row(0, k), *above = here - padded_.stride(), *below = here + padded_.stride(),
                *u = u_.data();
        const A v = k - A(r_.H - 1) / 2;
        const auto slope = [&](int64_t j) { return (here[j + 1] - here[j - 1]) * v - (below[j] - above[j]) * u[j]; };
        int64_t j = 0;
        for (; j + kSlopeLanes <= r_.W; j += kSlopeLanes)
          for (int64_t l = 0; l < kSlopeLanes; ++l) sums[l] += grad[j + l] * slope(j + l);
        for (int64_t l = 0; j + l < r_.W; ++l) sums[l] += grad[j + l] * slope(j + l);
      }
      sum += total<A>(sums);
    }
    return sum / 2;
  }

  void by_angle(const Site& s, const Matrix& matrix, double* out) {
    SlopeRow<A> slopes(matrix, r_.H, r_.W);
    A* grad = rows_.data();
    std::memset(grad, 0, slopes.padded_width() * sizeof(A));
    for (int64_t c = 0; c < s.count; ++c) {
      padded_.fill(c, plane_of(x_, s.b, s.c + c), x_.h, r_.border);
      out[2 * c] = 0;
    }
    for (int64_t i = 0; i < r_.H; ++i) {
      const bool two_cells = slopes.row(i);
      for (const bool before : {false, true}) {
        if (before && !two_cells) break;
        slopes.cells(before);
        for (int64_t c = 0; c < s.count; ++c) {
          widen_row(plane_of(grad_, s.b, s.c + c) + i * grad_.h, grad, r_.W);
          SlopeSums<A> sums = {};
          slopes.add(padded_, c, grad, sums);
          out[2 * c] += total<A>(sums);
        }
      }
    }
  }

  // ⟨grad, F·image − image⟩. The two pixels that F exchanges are taken together. The gradient is that of the reflected
  // image if there is one: then the sum changes its sign.
  double by_flag(const Site& s, int64_t c) {
    const T *image = plane_of(image_, s.b, c), *grad = plane_of(grad_, s.b, c);
    const int64_t W = r_.W, pairs = (W + 1) / 2;
    double sum = 0;
    for (int64_t i = 0; i < r_.H; i += kBand) {
      SlopeSums<A> sums = {};
      for (int64_t k = i; k < smaller(i + kBand, r_.H); ++k) {
        const A *v = wide(image + k * image_.h, rows_.data()), *g = wide(grad + k * grad_.h, rows_.data() + W);
        const auto product = [&](int64_t j) { return (g[j] - g[W - 1 - j]) * (v[W - 1 - j] - v[j]); };
        int64_t j = 0;
        for (; j + kSlopeLanes <= pairs; j += kSlopeLanes)
          for (int64_t l = 0; l < kSlopeLanes; ++l) sums[l] += product(j + l);
        for (int64_t l = 0; j + l < pairs; ++l) sums[l] += product(j + l);
      }
      sum += total<A>(sums);
    }
    return s.e < a_.turns ? sum : -sum;
  }

  // The row itself, or a copy of it in the accumulate type.
  const A* wide(const T* row, A* copy) const {
    if constexpr (__is_same(T, A)) return row;
    widen_row(row, copy, r_.W);
    return copy;
  }
  static const T* plane_of(const Images& images, int64_t b, int64_t c) {
    return static_cast<const T*>(images.data) + b * images.b + c * images.c;
  }

  const AngleArgs& a_;
  const Resample& r_;
  Resampler<T> resampler_;
  DenseRows<T> dense_x_, dense_image_, dense_grad_;
  Images x_ = {}, image_ = {}, grad_ = {};  // those of a task, with dense rows
  PaddedPlanes<A> padded_;
  Buffer<A> u_;     // (W,): the columns about the centre
  Buffer<A> rows_;  // two rows
};

}  // namespace

// A task is (b, channel block).
void angle_inner(const AngleArgs& a, int64_t begin, int64_t end) {
  visit(a.resample.dtype, [&]<class T>(T) {
    const Resample& r = a.resample;
    AngleInner<T> inner(a);
    for (int64_t task = begin; task < end; ++task) {
      Site s = site_of(r, 0, task / r.channel_blocks(), task % r.channel_blocks());
      s.e = a.element[s.b];
      inner.run(s, a.out + (s.b * r.C + s.c) * 2);
    }
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
