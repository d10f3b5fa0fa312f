// How instructions come to memory: each lane with an address of its own.
#pragma once

#include <type_traits>

#include "counters.h"
#include "machine.h"

namespace equifast::ptx {

template <class Memory>
Memory& memory_of(Block& block) {
  if constexpr (std::is_same_v<Memory, Parameter>) return block.parameter;
  if constexpr (std::is_same_v<Memory, Global>) return block.global;
  if constexpr (std::is_same_v<Memory, Shared>) return block.shared;
}

// Counts what a GPU makes of the accesses of a warp at base + offset. The argument of a kernel lies in constant memory,
// whose reads are part of other instructions.
template <class Memory>
void count(Warp& warp, const typename Memory::Address* base, int32_t offset, Mask active, int bytes, bool writes) {
  if constexpr (!std::is_same_v<Memory, Parameter>) {
    typename Memory::Address addresses[kLanes];
    for (int i = 0; i < kLanes; ++i) addresses[i] = static_cast<typename Memory::Address>(base[i] + int64_t(offset));
    Counters& counters = *warp.block->counters;
    if constexpr (std::is_same_v<Memory, Global>) counters.global(warp, addresses, active, bytes, writes);
    else counters.shared(warp, addresses, active, bytes);
  }
}

// Calls move(lane, place) for the active lanes, each with its place of `bytes` at [o[0] + o[1]]. `written` has what
// each lane writes there, and is null if they read.
template <class Memory, class F>
void visit(Warp& warp, const int32_t* o, Mask active, int bytes, const unsigned char* written, F move) {
  auto& memory = memory_of<Memory>(*warp.block);
  const auto* base = warp.row<typename Memory::Address>(o[0]);
  if (warp.block->counters) count<Memory>(warp, base, o[1], active, bytes, written != nullptr);
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
