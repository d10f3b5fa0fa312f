#include "common/action_table.h"

#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <utility>

namespace equifast {
namespace {

// By how much a map may stretch lengths. The transpose gathers for each source pixel what has read it, which is the
// more the less a map stretches.
constexpr double kLeastStretch = 1.0 / 8, kMostStretch = 8, kRounding = 1e-9;

// Whether kernels can count positions of this map in 32 bits: those of a map that stretches nothing they always can.
bool is_countable(const Matrix& m, int64_t height, int64_t width) {
  // A matrix is a rotation times one number, and a reflection times another. The extreme stretches are their sum and
  // their difference.
  const double rotation = std::hypot(m.xx + m.yy, m.xy - m.yx) / 2,
               reflection = std::hypot(m.xx - m.yy, m.xy + m.yx) / 2;
  const double least = std::abs(rotation - reflection), most = rotation + reflection;
  const bool in_range = least >= kLeastStretch - kRounding && most <= kMostStretch + kRounding;  // not if NaN
  const double span = most * std::hypot(height, width) + std::fmax(height, width);
  return in_range && (most <= 1 + kRounding || span < std::ldexp(1.0, 32));
}

}  // namespace

ActionTable::ActionTable(int64_t channels, int64_t height, int64_t width, const std::vector<double>& table,
                         OptionalIntegers channel_permutation, OptionalNumbers channel_mixing,
                         const std::string& padding_mode)
    : permutation(std::move(channel_permutation).value_or(std::vector<int64_t>{})),
      permutation_size(0),
      mixing(std::move(channel_mixing).value_or(std::vector<double>{})),
      border(padding_mode == "border") {
  const int64_t numbers = table.size(), elements = numbers / kRowSize, entries = permutation.size();
  STD_TORCH_CHECK(elements > 0 && numbers % kRowSize == 0, "table: expected rows of 5 numbers, got ", numbers);
  STD_TORCH_CHECK(border || padding_mode == "zeros", "padding_mode: expected 'border' or 'zeros', got '", padding_mode,
                  "'");
  permutation_size = entries / elements;
  STD_TORCH_CHECK(entries % elements == 0 && (permutation_size == 0 || channels % permutation_size == 0),
                  "permutation: ", entries, " entries do not fit ", elements, " elements and ", channels, " channels");
  for (const int64_t channel : permutation)
    STD_TORCH_CHECK(0 <= channel && channel < permutation_size, "permutation: entry ", channel, " outside its block");
  STD_TORCH_CHECK(mixing.empty() || (static_cast<int64_t>(mixing.size()) == 4 * elements && channels % 2 == 0),
                  "mixing: expected 4 numbers an element and an even number of channels, got ", mixing.size(), " and ",
                  channels);
  for (int64_t e = 0; e < elements; ++e) {
    const double* row = &table[kRowSize * e];
    const Matrix base = {row[1], row[2], row[3], row[4]};
    STD_TORCH_CHECK(is_countable(base, height, width) && 0 <= row[0] && row[0] < 8 && row[0] == std::floor(row[0]),
                    "table: expected codes from 0 to 7 and matrices that stretch by 1/8 to 8, such as rotations, row ",
                    e, " has others, or the image is too large for them");
    actions.push_back(factor({static_cast<int>(row[0]), base}, height == width));
  }
}

}  // namespace equifast
