#include "cuda/runtime/table_on_device.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace equifast::cuda {
namespace {

bool is_exact(const Action& action) { return action.exact(); }

// At the edge of a large image, such a matrix takes positions less than 1/100 of a pixel from those of a rotation.
bool is_rotation(const Action& action) {
  constexpr double kRounding = 1e-6;
  const Matrix& m = action.base;
  return std::abs(m.xx - m.yy) < kRounding && std::abs(m.xy + m.yx) < kRounding &&
         std::abs(m.xx * m.xx + m.xy * m.xy - 1) < kRounding;
}

}  // namespace

TableOnDevice::TableOnDevice(const Tensor& images, const std::vector<double>& rows, const OptionalIntegers& permutation,
                             const OptionalNumbers& mixing, const std::string& padding_mode, Stream stream)
    : host(images.size(-3), images.size(-2), images.size(-1), rows, permutation, mixing, padding_mode) {
  table.order = static_cast<int32_t>(host.order());
  table.permutation_size = static_cast<int32_t>(host.permutation_size);
  table.border = host.border;
  table.mixes = !host.mixing.empty();
  table.interpolates = !std::all_of(host.actions.begin(), host.actions.end(), is_exact);
  table.rotates = std::all_of(host.actions.begin(), host.actions.end(), is_rotation);
  constexpr int kMost = DeviceTable::kInlineElements;
  if (host.order() <= kMost && host.permutation.size() <= kMost * kMost) copy_to_argument();
  else copy_to_memory(images, stream);
}

void TableOnDevice::copy_to_argument() {
  std::copy(host.actions.begin(), host.actions.end(), table.inline_actions);
  std::copy(host.permutation.begin(), host.permutation.end(), table.inline_permutation);
  std::copy(host.mixing.begin(), host.mixing.end(), table.inline_mixing);
  std::transform(host.actions.begin(), host.actions.end(), table.inline_exact, is_exact);
}

void TableOnDevice::copy_to_memory(const Tensor& images, Stream stream) {
  const std::vector<int32_t> permutation(host.permutation.begin(), host.permutation.end());
  std::vector<int32_t> exact(host.actions.size());
  std::transform(host.actions.begin(), host.actions.end(), exact.begin(), is_exact);
  std::vector<unsigned char> bytes;
  // Appends the bytes of a vector, aligned for any of its types; returns where they begin.
  const auto append = [&]<class T>(const std::vector<T>& values) {
    const size_t begin = (bytes.size() + 15) / 16 * 16;
    bytes.resize(begin + values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(&bytes[begin], values.data(), values.size() * sizeof(T));
    return begin;
  };
  const size_t actions_begin = append(host.actions), mixing_begin = append(host.mixing),
               permutation_begin = append(permutation), exact_begin = append(exact);
  memory_ = empty(images, {static_cast<int64_t>(bytes.size())}, ScalarType::Byte);
  auto* memory = static_cast<unsigned char*>(memory_->mutable_data_ptr());
  upload(memory, bytes.data(), static_cast<int64_t>(bytes.size()), stream);
  table.memory_exact = reinterpret_cast<const int32_t*>(memory + exact_begin);
  table.memory_actions = reinterpret_cast<const Action*>(memory + actions_begin);
  if (!host.mixing.empty()) table.memory_mixing = reinterpret_cast<const double*>(memory + mixing_begin);
  if (!permutation.empty()) table.memory_permutation = reinterpret_cast<const int32_t*>(memory + permutation_begin);
}

}  // namespace equifast::cuda
