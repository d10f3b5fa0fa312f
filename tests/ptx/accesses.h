// How instructions come to memory: each lane with an address of its own.
#pragma once

#include <type_traits>

#include "machine.h"

namespace equifast::ptx {

template <class Memory>
Memory& memory_of(Block& block) {
  if constexpr (std::is_same_v<Memory, Parameter>) return block.parameter;
  if constexpr (std::is_same_v<Memory, Global>) return block.global;
  if constexpr (std::is_same_v<Memory, Shared>) return block.shared;
}

// Calls move(lane, place) for the active lanes, each with its place of `bytes` at [o[0] + o[1]]. `written` has what
// each lane writes there, and is null if they read. A GPU makes a transaction of all these addresses, so whoever counts
// transactions does it here.
template <class Memory, class F>
void visit(Warp& warp, const int32_t* o, Mask active, int bytes, const unsigned char* written, F move) {
  auto& memory = memory_of<Memory>(*warp.block);
  const auto* base = warp.row<typename Memory::Address>(o[0]);
  int lane = 0;
  try {
    for (; lane < kLanes; ++lane) {
      if (!(active >> lane & 1)) continue;
      const auto address = static_cast<typename Memory::Address>(base[lane] + int64_t(o[1]));
      const unsigned char* value = written ? written + lane * bytes : nullptr;
      move(lane, memory.find(address, {warp.thread(lane), warp.synced, bytes, written != nullptr, bytes, value}));
    }
  } catch (const Wrong& wrong) {
    warp.fault(lane, wrong.text);
  }
}

}  // namespace equifast::ptx
