#include "cuda/runtime/table_on_device.h"

#include <cstring>

namespace equifast::cuda {
namespace {

int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace

TableOf::TableOf(const Tensor& images, const std::vector<double>& table, const std::vector<int64_t>& permutation,
                 const std::vector<double>& mixing, const std::string& padding_mode, Stream stream) {
  const int64_t C = images.size(-3), order = static_cast<int64_t>(table.size()) / 5;
  const bool square = images.size(-2) == images.size(-1);
  STD_TORCH_CHECK(order > 0 && table.size() % 5 == 0, "table: expected rows of 5 numbers, got ", table.size());
  STD_TORCH_CHECK(padding_mode == "border" || padding_mode == "zeros",
                  "padding_mode: expected 'border' or 'zeros', got '", padding_mode, "'");
  const int64_t entries = permutation.size(), block = entries / order;
  STD_TORCH_CHECK(entries % order == 0 && (block == 0 || C % block == 0), "permutation: ", entries,
                  " entries do not fit ", order, " elements and ", C, " channels");
  for (const int64_t k : permutation)
    STD_TORCH_CHECK(0 <= k && k < block, "permutation: entry ", k, " outside its block");
  STD_TORCH_CHECK(mixing.empty() || (static_cast<int64_t>(mixing.size()) == 4 * order && C % 2 == 0),
                  "mixing: expected 4 numbers an element and an even number of channels, got ", mixing.size(), " and ",
                  C);

  for (int64_t e = 0; e < order; ++e) {
    const double* row = &table[5 * e];
    actions.push_back(factor({static_cast<int>(row[0]), {row[1], row[2], row[3], row[4]}}, square));
    value.interpolates |= !actions[e].exact();
    value.turns |= actions[e].exact() && actions[e].code & 1;
  }
  value.order = static_cast<int32_t>(order);
  value.block = static_cast<int32_t>(block);
  value.border = padding_mode == "border";
  value.mixes = !mixing.empty();
  if (order <= Table::kNear && entries <= Table::kNear * Table::kNear) {
    std::copy(actions.begin(), actions.end(), value.near_rows);
    std::copy(permutation.begin(), permutation.end(), value.near_permutation);
    std::copy(mixing.begin(), mixing.end(), value.near_mixing);
    return;
  }
  const std::vector<int32_t> narrow(permutation.begin(), permutation.end());
  const int64_t rows = aligned(order * sizeof(Action)), mixes = rows + aligned(mixing.size() * sizeof(double));
  std::vector<unsigned char> bytes(mixes + entries * sizeof(int32_t));
  std::memcpy(&bytes[0], actions.data(), order * sizeof(Action));
  if (!mixing.empty()) std::memcpy(&bytes[rows], mixing.data(), mixing.size() * sizeof(double));
  if (entries) std::memcpy(&bytes[mixes], narrow.data(), entries * sizeof(int32_t));
  memory_ = empty(images, {static_cast<int64_t>(bytes.size())}, ScalarType::Byte);
  auto* far = static_cast<unsigned char*>(memory_->mutable_data_ptr());
  upload(far, bytes.data(), bytes.size(), stream);
  value.far_rows = reinterpret_cast<const Action*>(far);
  if (!mixing.empty()) value.far_mixing = reinterpret_cast<const double*>(far + rows);
  if (entries) value.far_permutation = reinterpret_cast<const int32_t*>(far + mixes);
}

}  // namespace equifast::cuda
