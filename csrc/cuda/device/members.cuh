// Pixels of S x, which is one member of an orbit, and of Sᵀ x. Positions and weights are those of geometry.h. The order
// of the sums lets interpolation commute with the exact elements bit for bit.
#pragma once

#include "cuda/device/pixels.cuh"
#include "cuda/runtime/device_table.h"

namespace equifast::cuda {

// One channel of one image. Strides in pixels.
template <class T>
struct Plane {
  const T* data;
  int64_t h, w;

  __device__ Acc<T> at(int64_t i, int64_t j) const { return widen(data[i * h + j * w]); }
};

struct Grid {
  int32_t H, W;
  bool border;
};

// A permuted image is a strided view of its source: pixel (i, j) is the source's at origin + i · down + j · right.
struct ExactView {
  int64_t origin, down, right;

  // h, w: strides of the source. On a grid that is not square, code is even.
  __device__ ExactView(int code, const Grid& g, int64_t h, int64_t w) {
    const Permutation p(code);
    origin = (p.reverse_row ? (g.H - 1) * h : 0) + (p.reverse_col ? (g.W - 1) * w : 0);
    const int64_t row = p.reverse_row ? -h : h, col = p.reverse_col ? -w : w;
    down = p.transposed ? col : row;
    right = p.transposed ? row : col;
  }
};

// The offsets of output row i, and of output column j, of an element that interpolates by m.
__device__ inline Offsets row_offsets(const Matrix& m, const Grid& g, int32_t i) {
  const double distance = i - (g.H - 1) / 2.0;
  return {sample_offset(m.xy, distance, (g.W - 1) / 2.0), sample_offset(m.yy, distance, (g.H - 1) / 2.0)};
}
__device__ inline Offsets column_offsets(const Matrix& m, const Grid& g, int32_t j) {
  const double distance = j - (g.W - 1) / 2.0;
  return {sample_offset(m.xx, distance), sample_offset(m.yx, distance)};
}

// The four pixels that one interpolated pixel is made of.
template <class A>
struct Corners {
  int32_t i, j;         // the first of them
  int32_t down, right;  // 1 if there is a next row or column, else 0
  A w00, w01, w10, w11;

  __device__ Corners(const Offsets& row, const Offsets& column, const Grid& g) {
    constexpr A kStep = A(1) / kOne;
    const BilinearTap x = bilinear_tap(column.x + row.x, g.W, g.border),
                      y = bilinear_tap(column.y + row.y, g.H, g.border);
    const A ax = A(x.near) * kStep, bx = A(x.far) * kStep, ay = A(y.near) * kStep, by = A(y.far) * kStep;
    i = y.first, j = x.first, down = g.H > 1, right = g.W > 1;
    w00 = ay * ax, w01 = ay * bx, w10 = by * ax, w11 = by * bx;
  }

  template <class T>
  __device__ A of(const Plane<T>& p) const {
    const T* first = p.data + i * p.h + j * p.w;
    const int64_t below = down * p.h, next = right * p.w;
    // Opposite corners are added first. A quarter turn or a flip swaps these two sums, and addition commutes exactly.
    const A diagonal = widen(first[0]) * w00 + widen(first[below + next]) * w11;
    return diagonal + (widen(first[next]) * w01 + widen(first[below]) * w10);
  }
};

// The transposed interpolation Sᵀ of an element that interpolates by M is gathered. Output p reads at M·p. If M is
// orthogonal, the outputs that read source pixel s, its readers, lie within √2 of Mᵀ·s along either axis: they are
// among nine pixels. With border padding, a pixel on the edge has more readers, all whose positions were clamped to it.
// They lie around a ray outwards, which is followed one pixel at a time.
//
// For any other M, the positions that read a pixel fill a rectangle, which has no end beyond an edge that the pixel is
// on. So its readers fill a parallelogram, whose rows are gone through one by one.
template <class A>
class Readers {
 public:
  // rotates: M is orthogonal. lines: what the rows of the element, then its columns, add to positions (H + W,). h, w:
  // strides of y.
  __device__ Readers(const Matrix& m, bool rotates, const Grid& g, const Offsets* lines, int64_t h, int64_t w)
      : xx_(float(m.xx)),
        xy_(float(m.xy)),
        yx_(float(m.yx)),
        yy_(float(m.yy)),
        rotates_(rotates),
        g_(g),
        rows_(lines),
        columns_(lines + g.H),
        h_(h),
        w_(w) {}

  // Calls f(offset, weight) for every term of (Sᵀ y)(i, j) = Σ weight · y[offset].
  template <class F>
  __device__ void each(int32_t i, int32_t j, F f) const {
    if (!rotates_) return between(i, j, f);
    if (!g_.border || (i > 0 && i < g_.H - 1 && j > 0 && j < g_.W - 1)) return around<false>(i, j, 0, 0, 0, f);
    around<true>(i, j, 0, 0, 0, f);
    // How many pixels the positions of a rotated image reach beyond the edge, and one more.
    const float w = (g_.W - 1) * 0.5f, h = (g_.H - 1) * 0.5f;
    const auto reach_x = static_cast<int32_t>(fabsf(xx_) * w + fabsf(xy_) * h - w) + 1;
    const auto reach_y = static_cast<int32_t>(fabsf(yx_) * w + fabsf(yy_) * h - h) + 1;
    for (int side = -1; side <= 1; side += 2) {
      if (i == (side < 0 ? 0 : g_.H - 1))
        for (int32_t k = 1; k <= reach_y + 1; ++k) around<true>(i, j, 0, side, k, f);
      if (j == (side < 0 ? 0 : g_.W - 1))
        for (int32_t k = 1; k <= reach_x + 1; ++k) around<true>(i, j, side, 0, k, f);
    }
  }

 private:
  // How many pixels a position lies before the first pixel, as a negative number, or beyond the last; rounded away from
  // zero.
  __device__ static int32_t beyond(Fixed p, int32_t size) {
    return p.whole < 0 ? p.whole : at_least(p.whole - (size - 1) + (p.fraction > 0), 0);
  }
  __device__ static Fixed clamped(Fixed p, int32_t size) {
    const bool inside = p.whole >= 0 && p.whole < size - 1;
    return {at_most(at_least(p.whole, 0), size - 1), inside ? p.fraction : 0};
  }
  // A position in steps of 2⁻²⁴ pixel, but for multiples of 2⁸ pixels. Readers are nearer than that.
  __device__ static uint32_t steps(Fixed p) { return (static_cast<uint32_t>(p.whole) << kFractionBits) + p.fraction; }

  // Calls f for the readers of (i, j) among nine outputs. They are around Mᵀ·(i, j), and with kEdge those whose
  // positions lie inside the image. Or they are around what lies k pixels from (i, j) in one of the four directions
  // (toward_x, toward_y), and lie more than k − 1 and at most k pixels beyond the edge. A reader beyond two edges
  // counts in the direction x alone.
  template <bool kEdge, class F>
  __device__ void around(int32_t i, int32_t j, int toward_x, int toward_y, int32_t k, F f) const {
    constexpr A kStep = A(1) / kOne;
    const float along = k == 0 ? 0 : k - 0.5f;
    const float u = j - (g_.W - 1) * 0.5f + toward_x * along, v = i - (g_.H - 1) * 0.5f + toward_y * along;
    const float centre_j = xx_ * u + yx_ * v + (g_.W - 1) * 0.5f, centre_i = xy_ * u + yy_ * v + (g_.H - 1) * 0.5f;
    const int32_t first_j = static_cast<int32_t>(floorf(centre_j - 1.5f)) + 1;
    const int32_t first_i = static_cast<int32_t>(floorf(centre_i - 1.5f)) + 1;
    if (first_i < -2 || first_i >= g_.H || first_j < -2 || first_j >= g_.W) return;
    Offsets columns[3];
    for (int b = 0; b < 3; ++b) columns[b] = columns_[at_most(at_least(first_j + b, 0), g_.W - 1)];
    const uint32_t at_x = static_cast<uint32_t>(j) << kFractionBits, at_y = static_cast<uint32_t>(i) << kFractionBits;
#pragma unroll
    for (int a = 0; a < 3; ++a) {
      const int32_t row = first_i + a;
      if (row < 0 || row >= g_.H) continue;
      const Offsets of_row = rows_[row];
#pragma unroll
      for (int b = 0; b < 3; ++b) {
        const int32_t column = first_j + b;
        if (column < 0 || column >= g_.W) continue;
        uint32_t x = steps(columns[b].x) + steps(of_row.x), y = steps(columns[b].y) + steps(of_row.y);
        if constexpr (kEdge) {
          const Fixed p = columns[b].x + of_row.x, q = columns[b].y + of_row.y;
          if (beyond(p, g_.W) != toward_x * k || (toward_x == 0 && beyond(q, g_.H) != toward_y * k)) continue;
          x = steps(clamped(p, g_.W)), y = steps(clamped(q, g_.H));
        }
        const int32_t w_x = tent(static_cast<int32_t>(x - at_x)), w_y = tent(static_cast<int32_t>(y - at_y));
        if (w_x > 0 && w_y > 0) f(row * h_ + column * w_, (A(w_y) * kStep) * (A(w_x) * kStep));
      }
    }
  }

  // How far a position lies from a pixel, in steps; at least two pixels if it is farther.
  __device__ static int32_t distance(Fixed p, int32_t index) {
    return at_most(at_least(p.whole - index, -2), 2) * kOne + p.fraction;
  }

  // Narrows the columns [first, last] of a row, about the centre, to those with low ≤ of_column · column + of_row ≤
  // high. A coefficient of about 0 is taken for a small one. Then either all columns fulfil this, or none.
  __device__ static void narrow_columns(float low, float high, float of_column, float of_row, float& first,
                                        float& last) {
    const float c = 1 / (fabsf(of_column) < kTiny ? kTiny : of_column);
    const float u = (low - of_row) * c, v = (high - of_row) * c;
    first = fmaxf(first, fminf(u, v)), last = fminf(last, fmaxf(u, v));
  }

  // Calls f for the readers of (i, j), for any matrix. Bounds are rough and on the safe side; the weights are exact.
  template <class F>
  __device__ void between(int32_t i, int32_t j, F f) const {
    constexpr A kStep = A(1) / kOne;
    const float half_w = (g_.W - 1) * 0.5f, half_h = (g_.H - 1) * 0.5f, sides = float(g_.H) + float(g_.W);
    // More than the roundings of positions as large as the image amount to, and than all positions.
    const float slack = 0.0625f + sides * kTiny, far = 16 * sides;
    const float x = j - half_w, y = i - half_h;
    const float left = g_.border && j == 0 ? -far : x - 1 - slack;
    const float right = g_.border && j == g_.W - 1 ? far : x + 1 + slack;
    const float top = g_.border && i == 0 ? -far : y - 1 - slack;
    const float bottom = g_.border && i == g_.H - 1 ? far : y + 1 + slack;
    const float scale = 1 / (xx_ * yy_ - xy_ * yx_), v_of_x = -yx_ * scale, v_of_y = xx_ * scale;
    const float least = fminf(v_of_x * left, v_of_x * right) + fminf(v_of_y * top, v_of_y * bottom);
    const float greatest = fmaxf(v_of_x * left, v_of_x * right) + fmaxf(v_of_y * top, v_of_y * bottom);
    const auto last_row = static_cast<int32_t>(fmaxf(fminf(ceilf(greatest + half_h + slack), g_.H - 1), -1));
    auto row = static_cast<int32_t>(fminf(fmaxf(floorf(least + half_h - slack), 0), g_.H));
#pragma unroll 1
    for (; row <= last_row; ++row) {
      const Offsets of_row = rows_[row];
      float first = -half_w, last = half_w;
      narrow_columns(left, right, xx_, xy_ * (row - half_h), first, last);
      narrow_columns(top, bottom, yx_, yy_ * (row - half_h), first, last);
      const auto last_column = static_cast<int32_t>(fmaxf(ceilf(fminf(last + half_w, g_.W - 1)), -1));
      auto column = static_cast<int32_t>(floorf(fminf(fmaxf(first + half_w, 0), g_.W)));
#pragma unroll 1
      for (; column <= last_column; ++column) {
        const Offsets of_column = columns_[column];
        Fixed p = of_column.x + of_row.x, q = of_column.y + of_row.y;
        if (g_.border) p = clamped(p, g_.W), q = clamped(q, g_.H);
        const int32_t w_x = tent(distance(p, j)), w_y = tent(distance(q, i));
        if (w_x > 0 && w_y > 0) f(row * h_ + column * w_, (A(w_y) * kStep) * (A(w_x) * kStep));
      }
    }
  }

  // A coefficient that moves no position of an image by as much as the slack of rough bounds.
  static constexpr float kTiny = 1.0f / (1 << 15);

  float xx_, xy_, yx_, yy_;
  bool rotates_;
  Grid g_;
  const Offsets *rows_, *columns_;
  int64_t h_, w_;
};

}  // namespace equifast::cuda
