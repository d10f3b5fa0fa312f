// Copies from global to shared memory that go on while a thread does. They are done when the thread waits for their
// group. Until then no thread may read or write where they go.
#include <algorithm>
#include <cstring>

#include "accesses.h"

namespace equifast::ptx {
namespace {

// Begins a copy of the first o[5] bytes at [o[2] + o[3]] to [o[0] + o[1]], and of zeros after them: of o[4] bytes in
// all. They are read now, which is when they may be read at the earliest.
void copy(Warp& warp, const int32_t* o, Mask active) {
  const int bytes = o[4];
  const auto* given = warp.row<uint32_t>(o[5]);
  const auto* to = warp.row<uint32_t>(o[0]);
  const auto* from = warp.row<uint64_t>(o[2]);
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(active >> lane & 1)) continue;
    const int read = static_cast<int>(given[lane]);
    if (read < 0 || read > bytes) warp.fault(lane, "copies more bytes than it has room for");
    Copy next{lane, warp.groups[lane], to[lane] + static_cast<uint32_t>(o[1]), bytes, {}};
    try {
      if (read) {
        const uint64_t source = from[lane] + static_cast<int64_t>(o[3]);
        const auto* place = warp.block->global.find(source, {warp.thread(lane), warp.synced, bytes, false, read});
        std::memcpy(next.data, place, read);
      }
      warp.block->shared.begin_copy(next.to, {warp.thread(lane), warp.synced, bytes, true});
    } catch (const Wrong& wrong) {
      warp.fault(lane, wrong.text);
    }
    warp.copies.push_back(next);
  }
}

void commit(Warp& warp, const int32_t*, Mask active) {
  for (int lane = 0; lane < kLanes; ++lane) warp.groups[lane] += active >> lane & 1;
}

// Ends all copies but those of the last o[0] groups that a lane committed.
void wait(Warp& warp, const int32_t* o, Mask active) {
  const auto is_over = [&](const Copy& copy) {
    return (active >> copy.lane & 1) && copy.group + static_cast<uint32_t>(o[0]) < warp.groups[copy.lane];
  };
  for (const Copy& copy : warp.copies) {
    if (!is_over(copy)) continue;
    auto* place = warp.block->shared.end_copy(copy.to, {warp.thread(copy.lane), warp.synced, copy.bytes, true});
    std::memcpy(place, copy.data, copy.bytes);
  }
  std::erase_if(warp.copies, is_over);
}

constexpr const char* kCopy = "[w+#],[d+#],#,w";

constexpr Instruction kInstructions[] = {
    {"cp.async.ca.shared.global", kCopy, copy},
    {"cp.async.cg.shared.global", kCopy, copy},
    {"cp.async.commit_group", "", commit},
    {"cp.async.wait_group", "#", wait},
};

}  // namespace

Instructions copies() { return {kInstructions, std::size(kInstructions)}; }

}  // namespace equifast::ptx
