// How an image changes as it is turned: the pieces that angle_inner sums over.
#pragma once

#include "cpu/kernels/interpolate.h"
#include "cpu/kernels/pixels.h"
#include "geometry.h"

namespace equifast::cpu {
namespace {

// The independent sums of a row. Their number is the same for every instruction set, and so is the order of all sums.
constexpr int64_t kSlopeLanes = 16;

template <class A>
using SlopeSums = A[kSlopeLanes];

// Planes in the accumulate type, each with a margin of two pixels. Beyond it nothing changes with a position.
template <class A>
class PaddedPlanes {
 public:
  static constexpr int64_t kMargin = 2;

  PaddedPlanes(int64_t count, int64_t H, int64_t W) : H_(H), W_(W), values_(count * (H + 2 * kMargin) * stride()) {}

  // Fills plane c. The rows of the source are `step` pixels apart. With `border` the margin repeats the edge, else it
  // is 0.
  template <class T>
  void fill(int64_t c, const T* source, int64_t step, bool border) {
    for (int64_t i = 0; i < H_; ++i) {
      A* out = row(c, i);
      widen_row(source + i * step, out, W_);
      out[-2] = out[-1] = border ? out[0] : A(0);
      out[W_] = out[W_ + 1] = border ? out[W_ - 1] : A(0);
    }
    for (const int64_t i : {INT64_C(-2), INT64_C(-1), H_, H_ + 1}) {
      A* out = row(c, i) - kMargin;
      if (border) std::memcpy(out, row(c, i < 0 ? 0 : H_ - 1) - kMargin, stride() * sizeof(A));
      else std::memset(out, 0, stride() * sizeof(A));
    }
  }

  // Row i of plane c, from −2 to H + 1; its columns go from −2 to W + 1.
  A* row(int64_t c, int64_t i) const { return &values_[(c * (H_ + 2 * kMargin) + i + kMargin) * stride() + kMargin]; }
  int64_t stride() const { return W_ + 2 * kMargin; }

 private:
  int64_t H_, W_;
  Buffer<A> values_;
};

// The slopes of one output row by the angle θ. R(−θ)x reads x at (u, v) about the centre, so du/dθ = v and dv/dθ = −u.
//
// A slope is that within a cell of four source pixels. Where a position falls on a row or a column of pixels, the slope
// jumps; then the cell before the position and the one after it count half each.
template <class A>
class SlopeRow {
 public:
  SlopeRow(const Matrix& m, int64_t H, int64_t W)
      : H_(H), W_(W), padded_((W + kSlopeLanes - 1) / kSlopeLanes * kSlopeLanes), m_(m) {
    offset_.resize(4 * W), position_.resize(4 * W), at_.resize(padded_), value_.resize(4 * padded_);
    int32_t* o = offset_.data();
    for (int64_t j = 0; j < W; ++j) {
      const double dx = j - (W - 1) / 2.0;
      const Fixed x = sample_offset(m.xx, dx), y = sample_offset(m.yx, dx);
      o[j] = x.whole, o[W + j] = x.fraction, o[2 * W + j] = y.whole, o[3 * W + j] = y.fraction;
    }
  }

  // Computes the positions of output row i, for the calls that follow. Returns whether one of them falls on a row or a
  // column of pixels, so that both cells count.
  bool row(int64_t i) {
    const double dy = i - (H_ - 1) / 2.0;
    const Fixed x = sample_offset(m_.xy, dy, (W_ - 1) / 2.0), y = sample_offset(m_.yy, dy, (H_ - 1) / 2.0);
    const int32_t *xw = offset_.data(), *xf = xw + W_, *yw = xf + W_, *yf = yw + W_;
    int32_t *column = position_.data(), *right = column + W_, *line = right + W_, *below = line + W_;
    int32_t on_pixel = 0;
    for (int64_t j = 0; j < W_; ++j) {
      const Fixed px = x + Fixed{xw[j], xf[j]}, py = y + Fixed{yw[j], yf[j]};
      column[j] = px.whole, right[j] = px.fraction, line[j] = py.whole, below[j] = py.fraction;
      on_pixel |= (px.fraction == 0) | (py.fraction == 0);
    }
    const A share = on_pixel ? A(0.5) : A(1), middle_x = A(W_ - 1) / 2, middle_y = A(H_ - 1) / 2;
    A *u = value_.data(), *v = u + padded_;
    for (int64_t j = 0; j < W_; ++j) {
      u[j] = share * ((A(column[j]) - middle_x) + A(right[j]) * kStep);
      v[j] = share * ((A(line[j]) - middle_y) + A(below[j]) * kStep);
    }
    for (int64_t j = W_; j < padded_; ++j) u[j] = v[j] = 0;
    return on_pixel;
  }

  // Chooses the cell of each position. They differ where it falls on a row or a column of pixels.
  void cells(bool before) {
    const int32_t *column = position_.data(), *right = column + W_, *line = right + W_, *below = line + W_;
    const int32_t W = static_cast<int32_t>(W_), H = static_cast<int32_t>(H_), stride = W + 4;
    A *fx = value_.data() + 2 * padded_, *fy = fx + padded_;
    for (int64_t j = 0; j < W_; ++j) {
      const int32_t left = before & (right[j] == 0), above = before & (below[j] == 0);
      fx[j] = A(right[j] + left * kOne) * kStep;
      fy[j] = A(below[j] + above * kOne) * kStep;
      at_[j] = at_most(at_least(line[j] - above, -2), H) * stride + at_most(at_least(column[j] - left, -2), W);
    }
    for (int64_t j = W_; j < padded_; ++j) fx[j] = fy[j] = 0, at_[j] = at_[W_ - 1];
  }

  // sums[j % kSlopeLanes] += grad[j] · slope at j; behind the W values of grad are zeros, up to padded_width().
  void add(const PaddedPlanes<A>& x, int64_t c, const A* grad, SlopeSums<A>& sums) const {
    const A *u = value_.data(), *v = u + padded_, *fx = v + padded_, *fy = fx + padded_, *origin = x.row(c, 0);
    for (int64_t j = 0; j < padded_; j += kSlopeLanes) {
      A v00[kSlopeLanes], v01[kSlopeLanes], v10[kSlopeLanes], v11[kSlopeLanes];
      load_cells(origin, x.stride(), &at_[j], v00, v01, v10, v11);
      for (int64_t l = 0; l < kSlopeLanes; ++l) {
        const A top = v01[l] - v00[l], left = v10[l] - v00[l], twist = (v11[l] - v10[l]) - top;
        const A slope = (top + fy[j + l] * twist) * v[j + l] - (left + fx[j + l] * twist) * u[j + l];
        sums[l] += grad[j + l] * slope;
      }
    }
  }

  int64_t padded_width() const { return padded_; }

 private:
  static constexpr A kStep = A(1) / kOne;

  static void load_cells(const A* origin, int64_t stride, const int32_t* at, SlopeSums<A>& v00, SlopeSums<A>& v01,
                         SlopeSums<A>& v10, SlopeSums<A>& v11) {
#ifdef __AVX512F__
    if constexpr (__is_same(A, float)) {
      const __m512i index = _mm512_loadu_si512(at);
      __m512 first, second;
      load_pairs(origin, index, first, second);
      _mm512_storeu_ps(v00, first), _mm512_storeu_ps(v01, second);
      load_pairs(origin + stride, index, first, second);
      _mm512_storeu_ps(v10, first), _mm512_storeu_ps(v11, second);
      return;
    }
#endif
    for (int64_t l = 0; l < kSlopeLanes; ++l) {
      const A *above = origin + at[l], *below = above + stride;
      v00[l] = above[0], v01[l] = above[1], v10[l] = below[0], v11[l] = below[1];
    }
  }

  int64_t H_, W_, padded_;
  Matrix m_;
  Buffer<int32_t> offset_;    // (4, W): what a column adds to positions; whole and fraction along x, then along y
  Buffer<int32_t> position_;  // (4, W): whole and fraction of the positions of this row along x, then along y
  Buffer<int32_t> at_;        // (padded width): the first pixel of each cell, as an index from the origin of a plane
  Buffer<A> value_;           // (4, padded width): u, v, and the fractions of a cell along x and y
};

}  // namespace
}  // namespace equifast::cpu
