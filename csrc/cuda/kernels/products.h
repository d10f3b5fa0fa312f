// The sizes of the matrix products that the kernels of orbit_conv2d are made of, for host code that plans a launch. The
// products themselves are in device/products.cuh and orbit_conv2d_grad_weight.cu, which assert that they have these
// sizes.
#pragma once

#include <cstdint>

#include "cuda/runtime/hardware.h"
#include "geometry.h"

namespace equifast::cuda {

constexpr int kConvThreads = 128;

// What is multiplied, and how. All but float64 are summed in float32.
enum class Math { float64, float32, tf32, float16, bfloat16 };

constexpr bool on_matrix_units(Math math) { return math != Math::float64 && math != Math::float32; }

// A word is what a matrix instruction takes at once: two 16-bit numbers, or one number that is wider.
struct WordShape {
  int numbers;                // of a word
  int word_bytes, sum_bytes;  // of a word of the factors, and of a number of the sum

  bool operator==(const WordShape&) const = default;
};

constexpr WordShape word_shape(Math math) {
  if (math == Math::float64) return {1, 8, 8};
  return {math == Math::float16 || math == Math::bfloat16 ? 2 : 1, 4, 4};
}

// Up to so many output channels, or columns of a product, a narrow product wastes less than a wide one.
constexpr int64_t kNarrow = 16;

// The product of one block of the forward pass or of the input gradient: `rows` places by `columns` output channels.
struct ProductShape {
  int rows, columns;
  WordShape word;

  bool operator==(const ProductShape&) const = default;
};

constexpr ProductShape product_shape(Math math, int64_t columns) {
  const bool narrow = columns <= kNarrow;
  const int rows = math == Math::float64 ? (narrow ? 128 : 32) : math == Math::float32 ? (narrow ? 256 : 128) : 128;
  return {rows, narrow ? 16 : 64, word_shape(math)};
}

// Sums of a product that belong to one column, from the first of a column to the first of the next. With the four
// besides, no two sums of a warp are in one bank.
EQUIFAST_HD constexpr int sums_pitch(int rows) { return rows + 4; }

constexpr int kTaps = 160;  // taps of the weight gradient that one block sums

// The product of one block of the weight gradient: `channels` output channels by kTaps taps, summed over `places`
// places at a time. The places are split into `shares`, whose sums are added up at the end.
struct GradWeightShape {
  int channels, places, shares;
  WordShape word;

  bool operator==(const GradWeightShape&) const = default;
  EQUIFAST_HD constexpr int place_words() const { return places / word.numbers; }
  // Words from one row of the gradient's tile to the next. The four besides let rows begin in different banks.
  EQUIFAST_HD constexpr int grad_pitch() const { return place_words() + 4; }
};

constexpr GradWeightShape grad_weight_shape(Math math, int64_t channels) {
  if (!on_matrix_units(math)) return {16, 128, 1, word_shape(math)};
  return channels <= kNarrow ? GradWeightShape{16, 128, 2, word_shape(math)}
                             : GradWeightShape{32, 128, 1, word_shape(math)};
}

}  // namespace equifast::cuda
