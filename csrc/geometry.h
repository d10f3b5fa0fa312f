// What a group element does to a pixel grid. Every kernel includes this file, and so does the host code.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define EQUIFAST_HD __host__ __device__
#else
// Inlined whatever the compiler thinks that it costs: a loop over pixels is vectorised only if it calls nothing.
// Without this, GCC 12 calls bilinear_tap in orbit_inner, which then takes ten times as long.
#define EQUIFAST_HD [[gnu::always_inline]]
#endif

namespace equifast {

// A linear map of image coordinates (x right, y down) about the centre ((W-1)/2, (H-1)/2).
struct Matrix {
  double xx, xy, yx, yy;

  EQUIFAST_HD bool operator==(const Matrix& m) const { return xx == m.xx && xy == m.xy && yx == m.yx && yy == m.yy; }
  EQUIFAST_HD bool is_identity() const { return *this == Matrix{1, 0, 0, 1}; }
};

EQUIFAST_HD inline Matrix operator*(const Matrix& a, const Matrix& b) {
  return {a.xx * b.xx + a.xy * b.yx, a.xx * b.xy + a.xy * b.yy, a.yx * b.xx + a.yy * b.yx, a.yx * b.xy + a.yy * b.yy};
}

// R(90°)^q F^r for code = q + 4r. F flips left-right and acts first; R turns counter-clockwise as displayed.
EQUIFAST_HD inline Matrix quarter_turn(int code) {
  const int q = code & 3;
  const double c = q == 0 ? 1 : q == 2 ? -1 : 0, s = q == 1 ? 1 : q == 3 ? -1 : 0, f = code & 4 ? -1 : 1;
  return {f * c, s, -f * s, c};
}

// One row of an action table: the output at position p is the source at position base · quarter_turn(code) · p.
struct Action {
  int code;
  Matrix base;

  EQUIFAST_HD bool exact() const { return base.is_identity(); }
  EQUIFAST_HD Matrix matrix() const { return base * quarter_turn(code); }
};

// The same action, with a permutation that maps this grid onto itself. Where the grid is not square, only half turns
// and flips do, so a quarter turn moves into the base.
EQUIFAST_HD inline Action factor(const Action& a, bool square) {
  if (square || !(a.code & 1)) return a;
  return {a.code - 1, a.base * quarter_turn(1)};
}

// The code of the inverse permutation. With a flip, a permutation is its own inverse.
EQUIFAST_HD inline int inverse_code(int code) { return code & 4 ? code : -code & 3; }

// Where output pixel (i, j) of a permuted image comes from: along each axis, the index of the source pixel counts up or
// down with i or with j.
struct Permutation {
  bool transposed;   // the source row follows j and the source column follows i
  bool reverse_row;  // the source row counts down
  bool reverse_col;  // the source column counts down

  // By the signs of quarter_turn(code).
  EQUIFAST_HD explicit Permutation(int code) {
    const bool half_turn = code & 2, flip = code & 4;
    transposed = code & 1;
    reverse_row = transposed ? half_turn == flip : half_turn;
    reverse_col = transposed ? half_turn : half_turn != flip;
  }
};

// Sample positions are whole multiples of 2^-24 pixel. Then weights are exact in float, sums of offsets are exact, and
// interpolation commutes with the exact permutations bit for bit.
constexpr int kFractionBits = 24;
constexpr int32_t kOne = 1 << kFractionBits;

// A position or an offset along one axis: whole + fraction / kOne, with 0 ≤ fraction < kOne.
struct Fixed {
  int32_t whole, fraction;

  EQUIFAST_HD Fixed operator+(const Fixed& f) const {
    const int32_t sum = fraction + f.fraction;
    return {whole + f.whole + (sum >> kFractionBits), sum & (kOne - 1)};
  }
};

// start + coefficient · distance, where the product is rounded to a step. start is a multiple of one half.
EQUIFAST_HD inline Fixed sample_offset(double coefficient, double distance, double start = 0) {
  const double offset = start + std::nearbyint(coefficient * distance * kOne) / kOne, whole = std::floor(offset);
  return {static_cast<int32_t>(whole), static_cast<int32_t>((offset - whole) * kOne)};
}

// What a row or a column of pixels adds to the positions that they read.
struct alignas(16) Offsets {
  Fixed x, y;
};

// The two neighbours of a position along an axis, first and first + 1, and their bilinear weights in steps of 1 / kOne.
struct BilinearTap {
  int32_t first, near, far;
};

// These have no branch, so that a compiler can make vectors of them.
EQUIFAST_HD inline int32_t at_least(int32_t v, int32_t bound) { return v > bound ? v : bound; }
EQUIFAST_HD inline int32_t at_most(int32_t v, int32_t bound) { return v < bound ? v : bound; }
EQUIFAST_HD inline int32_t tent(int32_t distance) { return at_least(kOne - (distance < 0 ? -distance : distance), 0); }

// The neighbours of a position on an axis of `size` pixels. With `border`, positions beyond the edge read the pixel on
// the edge; else the weights of what lies beyond are 0.
EQUIFAST_HD inline BilinearTap bilinear_tap(Fixed p, int32_t size, bool border) {
  int32_t whole = p.whole, fraction = p.fraction;
  if (border) {
    fraction &= -static_cast<int32_t>((whole >= 0) & (whole < size - 1));
    whole = at_most(at_least(whole, 0), size - 1);
  }
  const int32_t first = at_least(at_most(whole, size - 2), 0);
  const int32_t distance = at_most(at_least(whole - first, -2), 2) * kOne + fraction;
  return {first, tent(distance), tent(distance - kOne) * (size > 1)};
}

}  // namespace equifast
