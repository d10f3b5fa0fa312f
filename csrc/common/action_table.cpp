#include "common/action_table.h"

#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <utility>

namespace equifast {

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
    // Kernels count pixels in 32 bits, which a larger or a NaN coefficient would leave.
    bool rotates = true;
    for (int k = 1; k < kRowSize; ++k) rotates = rotates && std::abs(row[k]) <= 1;
    STD_TORCH_CHECK(rotates && 0 <= row[0] && row[0] < 8 && row[0] == std::floor(row[0]),
                    "table: expected codes from 0 to 7 and matrices of rotations, row ", e, " has others");
    actions.push_back(factor({static_cast<int>(row[0]), {row[1], row[2], row[3], row[4]}}, height == width));
  }
}

}  // namespace equifast
