// The action of a group, or of a list of linear maps, on images of one size, from the arguments of a torch op.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "geometry.h"

namespace equifast {

// A list that may be empty. AOTInductor passes nothing in place of an empty list, so the two mean the same.
using OptionalIntegers = std::optional<std::vector<int64_t>>;
using OptionalNumbers = std::optional<std::vector<double>>;

// Checks what it is made from, so that no kernel reads out of bounds.
struct ActionTable {
  // A row of `table` is the code of a permutation and the four entries of a base matrix.
  static constexpr int64_t kRowSize = 5;

  ActionTable(int64_t channels, int64_t height, int64_t width, const std::vector<double>& table,
              OptionalIntegers permutation, OptionalNumbers mixing, const std::string& padding_mode);

  int64_t order() const { return static_cast<int64_t>(actions.size()); }

  std::vector<Action> actions;       // (E,), with permutations that map this grid onto itself
  std::vector<int64_t> permutation;  // (E, permutation_size): the channel that an element puts in each place
  int64_t permutation_size;          // how many channels an element permutes among themselves; 0 for none
  std::vector<double> mixing;        // (E, 2, 2), by which an element mixes pairs of channels; or empty
  bool border;                       // padding_mode "border", else "zeros"
};

}  // namespace equifast
