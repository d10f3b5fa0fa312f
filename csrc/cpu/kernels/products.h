// Inner products of all exact permutations of one plane with another: ⟨Q u, v⟩ for each code Q.
//
// A tile of u is read once for all of them, and transposed once for all quarter turns. Nothing that is permuted is
// written: ⟨Q u, v⟩ is the sum over pixels of u times the pixel of v that it moves to.
#pragma once

#include "cpu/kernels/permute.h"
#include "cpu/kernels/pixels.h"

namespace equifast::cpu {
namespace {

// Rows and columns of a tile. It is the same for every instruction set, and so is the order of all sums: a column of a
// tile has a sum of its own.
constexpr int64_t kTile = 16;

// A tile of at most kTile × kTile values.
template <class A>
struct Values {
  const A* data;
  int64_t stride, rows, columns;
};

// Where a tile of u lands in v: its first value, the step from there to the next row, and whether columns count down.
template <class T>
struct Landing {
  const T* first;
  int64_t step;
  bool reversed;
};

template <class T>
Landing<T> landing(const Permutation& p, const T* v, int64_t stride, int64_t H, int64_t W, int64_t i, int64_t j) {
  // A row of the transposed tile was a column of the tile.
  const bool reverse_rows = p.transposed ? p.reverse_col : p.reverse_row;
  const bool reverse_columns = p.transposed ? p.reverse_row : p.reverse_col;
  const int64_t row = p.transposed ? j : i, column = p.transposed ? i : j;
  return {v + (reverse_rows ? H - 1 - row : row) * stride + (reverse_columns ? W - 1 - column : column),
          reverse_rows ? -stride : stride, reverse_columns};
}

template <class A>
Values<A> transposed(const Values<A>& tile, A* out) {
  using Bits = typename BitsOf<sizeof(A)>::type;
  constexpr int64_t K = Tile<Bits>::K;
  if (tile.rows == kTile && tile.columns == kTile) {
    for (int64_t i = 0; i < kTile; i += K)
      for (int64_t j = 0; j < kTile; j += K)
        Tile<Bits>::transpose(reinterpret_cast<const Bits*>(tile.data + i * tile.stride + j), tile.stride,
                              reinterpret_cast<Bits*>(out + j * kTile + i), kTile);
  } else {
    for (int64_t i = 0; i < tile.rows; ++i)
      for (int64_t j = 0; j < tile.columns; ++j) out[j * kTile + i] = tile.data[i * tile.stride + j];
  }
  return {out, kTile, tile.columns, tile.rows};
}

// The values of a row of a tile.
template <class A>
struct Lanes {
  typedef A Vector __attribute__((vector_size(kTile * sizeof(A)), aligned(alignof(A)), may_alias));

  template <size_t... l>
  static inline void reverse(Vector& v, std::index_sequence<l...>) {
    v = __builtin_shufflevector(v, v, (kTile - 1 - int(l))...);
  }
};

// sums[l] += the products of column l of a whole tile with the values of v that it lands on: first those of every
// fourth row, so that few additions wait for the one before, then these four sums.
template <bool kReversed, class T, class A>
inline void add_whole(const Values<A>& tile, const Landing<T>& at, A* sums) {
  using Vector = typename Lanes<A>::Vector;
  const T* first = at.first - (kReversed ? kTile - 1 : 0);
  Vector sum[4] = {};
  A copy[kTile];
#pragma GCC unroll 16
  for (int64_t k = 0; k < kTile; ++k) {
    const void* row = first + k * at.step;
    if constexpr (!__is_same(T, A)) widen_row(first + k * at.step, copy, kTile), row = copy;
    Vector v = *static_cast<const Vector*>(row);
    if constexpr (kReversed) Lanes<A>::reverse(v, std::make_index_sequence<kTile>());
    sum[k % 4] += *reinterpret_cast<const Vector*>(tile.data + k * tile.stride) * v;
  }
  *reinterpret_cast<Vector*>(sums) += (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// The same in the same order for a tile that is cut off at the edge of the image.
template <class T, class A>
void add_part(const Values<A>& tile, const Landing<T>& at, A* sums) {
  for (int64_t l = 0; l < tile.columns; ++l) {
    A sum[4] = {};
    for (int64_t k = 0; k < tile.rows; ++k)
      sum[k % 4] += tile.data[k * tile.stride + l] * widen(at.first[k * at.step + (at.reversed ? -l : l)]);
    sums[l] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
}

template <class T, class A>
inline void add_products(const Values<A>& tile, const Landing<T>& at, A* sums) {
  if (tile.rows < kTile || tile.columns < kTile) add_part(tile, at, sums);
  else if (at.reversed) add_whole<true>(tile, at, sums);
  else add_whole<false>(tile, at, sums);
}

// The sum of kTile values, as a tree.
template <class A>
double total(const A* sums) {
  double part[kTile];
  for (int64_t l = 0; l < kTile; ++l) part[l] = sums[l];
  for (int64_t half = kTile / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) part[l] += part[l + half];
  return part[0];
}

}  // namespace
}  // namespace equifast::cpu
