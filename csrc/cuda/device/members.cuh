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

// The transposed interpolation is gathered. Output p reads at M·p, and M is orthogonal. So the outputs that read source
// pixel s, its readers, lie within √2 of Mᵀ·s along either axis: they are among nine pixels. With border padding, a
// pixel on the edge has more readers, all whose positions were clamped to it. They lie around a ray outwards, which is
// followed one pixel at a time.
namespace adjoint {

// Positions below are whole numbers of steps of 2⁻²⁴ pixel. A position is the sum of an offset along rows, one along
// columns, and the middle of the axis.
__device__ inline int64_t offset(double coefficient, int64_t index, int32_t size) {
  return static_cast<int64_t>(nearbyint(coefficient * (index - (size - 1) / 2.0) * kOne));
}
__device__ inline int64_t middle(int32_t size) { return int64_t(size - 1) << (kFractionBits - 1); }
__device__ inline int64_t last(int32_t size) { return int64_t(size - 1) << kFractionBits; }
__device__ inline int64_t clamped(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

// How far a position lies beyond the last pixel; or, if negative, before the first.
__device__ inline int64_t outside(int64_t position, int32_t size) {
  return position - clamped(position, 0, last(size));
}

// The bilinear weight of pixel `index` for a position along an axis.
template <class A>
__device__ A weight(int64_t position, int32_t index, int32_t size, bool border) {
  if (border) position = clamped(position, 0, last(size));
  const int64_t distance = clamped(position - (int64_t(index) << kFractionBits), -2 * int64_t(kOne), 2 * int64_t(kOne));
  return A(tent(static_cast<int32_t>(distance))) * (A(1) / kOne);
}

// Calls f(row, column, weight) for the readers of (i, j) whose positions lie inside the image, with toward_x = toward_y
// = k = 0. Or, in one of the four directions (toward_x, toward_y), for those whose positions lie k to k + 1 pixels
// beyond it.
template <class A, class F>
__device__ void readers(const Matrix& m, const Grid& g, int32_t i, int32_t j, int toward_x, int toward_y, int32_t k,
                        F f) {
  const float u = j - (g.W - 1) * 0.5f + toward_x * (k + 0.5f), v = i - (g.H - 1) * 0.5f + toward_y * (k + 0.5f);
  const float centre_j = float(m.xx) * u + float(m.yx) * v + (g.W - 1) * 0.5f;
  const float centre_i = float(m.xy) * u + float(m.yy) * v + (g.H - 1) * 0.5f;
  const int32_t first_j = static_cast<int32_t>(floorf(centre_j - 1.5f)) + 1;
  const int32_t first_i = static_cast<int32_t>(floorf(centre_i - 1.5f)) + 1;
  const bool ray = toward_x != 0 || toward_y != 0;
  int64_t x_of_column[3], y_of_column[3];
  for (int b = 0; b < 3; ++b) {
    x_of_column[b] = offset(m.xx, first_j + b, g.W);
    y_of_column[b] = offset(m.yx, first_j + b, g.W);
  }
  for (int a = 0; a < 3; ++a) {
    const int32_t row = first_i + a;
    if (row < 0 || row >= g.H) continue;
    const int64_t x_of_row = offset(m.xy, row, g.H) + middle(g.W), y_of_row = offset(m.yy, row, g.H) + middle(g.H);
    for (int b = 0; b < 3; ++b) {
      const int32_t column = first_j + b;
      if (column < 0 || column >= g.W) continue;
      const int64_t x = x_of_column[b] + x_of_row, y = y_of_column[b] + y_of_row;
      if (g.border) {
        // A reader beyond the edge counts once: in the direction x before y, for the k that is its distance in whole
        // pixels.
        const int64_t beyond_x = outside(x, g.W), beyond_y = outside(y, g.H);
        const int64_t beyond = beyond_x * toward_x + beyond_y * toward_y;
        if ((beyond_x != 0 && toward_x == 0) || (beyond_y != 0 && !ray)) continue;
        if ((beyond + kOne - 1) >> kFractionBits != k + ray) continue;
      }
      const A w = weight<A>(y, i, g.H, g.border) * weight<A>(x, j, g.W, g.border);
      if (w > 0) f(row, column, w);
    }
  }
}

}  // namespace adjoint

// For an element that interpolates by m, (Sᵀ y)(i, j) = Σ weight · y(row, column). Calls f(row, column, weight) for
// every term.
template <class A, class F>
__device__ void each_reader(const Matrix& m, const Grid& g, int32_t i, int32_t j, F f) {
  adjoint::readers<A>(m, g, i, j, 0, 0, 0, f);
  if (!g.border || (i > 0 && i < g.H - 1 && j > 0 && j < g.W - 1)) return;
  // How many pixels the positions of a rotated image reach beyond the edge.
  const double w = (g.W - 1) * 0.5, h = (g.H - 1) * 0.5;
  const double reach_x = fabs(m.xx) * w + fabs(m.xy) * h - w, reach_y = fabs(m.yx) * w + fabs(m.yy) * h - h;
  for (int side = -1; side <= 1; side += 2) {
    if (i == (side < 0 ? 0 : g.H - 1))
      for (int32_t k = 0; k <= reach_y; ++k) adjoint::readers<A>(m, g, i, j, 0, side, k, f);
    if (j == (side < 0 ? 0 : g.W - 1))
      for (int32_t k = 0; k <= reach_x; ++k) adjoint::readers<A>(m, g, i, j, side, 0, k, f);
  }
}

}  // namespace equifast::cuda
