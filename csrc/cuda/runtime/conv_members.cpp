#include "cuda/runtime/conv_members.h"

#include <algorithm>

#include "cuda/runtime/device_table.h"

namespace equifast::cuda {

MembersOnDevice::MembersOnDevice(const Tensor& x, const ActionTable& table, Stream stream) {
  std::vector<Member> found;
  for (const Action& action : table.actions) {
    int32_t source = 0;
    if (!action.exact()) {
      source = static_cast<int32_t>(std::find(bases.begin(), bases.end(), action.base) - bases.begin()) + 1;
      if (source > static_cast<int32_t>(bases.size())) bases.push_back(action.base);
    }
    has_exact = has_exact || source == 0;
    found.push_back({action.code, source});
  }
  members.order = static_cast<int32_t>(found.size());
  if (members.order <= DeviceMembers::kInlineElements) {
    std::copy(found.begin(), found.end(), members.inline_members);
    return;
  }
  const auto bytes = static_cast<int64_t>(found.size() * sizeof(Member));
  memory_ = empty(x, {bytes}, ScalarType::Byte);
  upload(memory_->mutable_data_ptr(), found.data(), bytes, stream);
  members.memory = static_cast<const Member*>(memory_->const_data_ptr());
}

std::vector<double> MembersOnDevice::base_rows() const {
  std::vector<double> rows;
  for (const Matrix& base : bases) rows.insert(rows.end(), {0, base.xx, base.xy, base.yx, base.yy});
  return rows;
}

}  // namespace equifast::cuda
