// Instructions by which lanes exchange values, wait for each other, or go different ways.
#include <algorithm>
#include <bit>

#include "rows.h"

namespace equifast::ptx {
namespace {

using u32 = uint32_t;
using s32 = int32_t;

// The lane that a shuffle takes a value from, by the lane's own number, the operand, and the mask of a segment.
constexpr auto butterfly = [](int lane, int bits, int) { return lane ^ bits; };
constexpr auto indexed = [](int lane, int index, int segment) { return (lane & segment) | (index & ~segment); };

// Each lane takes the value of the lane that `SOURCE` chooses; its own, if that is beyond the bounds of its segment.
// o: the value and, with PREDICATE, whether it came from within the bounds; the source, the choice, the bounds and the
// mask of those who take part.
template <auto SOURCE, bool PREDICATE>
void shuffle(Warp& warp, const int32_t* o, Mask active) {
  const int32_t* in = o + 1 + PREDICATE;
  const u32 *source = warp.row<u32>(in[0]), *choice = warp.row<u32>(in[1]), *bounds = warp.row<u32>(in[2]);
  u32 out[kLanes];
  Mask moved = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(active >> lane & 1)) continue;
    const int segment = bounds[lane] >> 8 & 31, last = (lane & segment) | (bounds[lane] & 31 & ~segment);
    const int from = SOURCE(lane, static_cast<int>(choice[lane] & 31), segment);
    const bool inside = from <= last;
    if (inside && !(active >> from & 1)) warp.fault(lane, "shuffles with a lane that isn't there");
    out[lane] = source[inside ? from : lane];
    moved |= static_cast<Mask>(inside) << lane;
  }
  store(warp.row<u32>(o[0]), active, [&](int i) { return out[i]; });
  if (PREDICATE) set_predicate(warp, o[1], active, moved);
}

constexpr auto least = [](s32 a, s32 b) { return std::min(a, b); };
constexpr auto largest = [](s32 a, s32 b) { return std::max(a, b); };

// The value that F chooses of those of the lanes of the mask o[2], which all of them get.
template <auto F>
void reduce(Warp& warp, const int32_t* o, Mask active) {
  const s32* source = warp.row<s32>(o[1]);
  s32 chosen = source[std::countr_zero(active)];
  for (int lane = 0; lane < kLanes; ++lane)
    if (active >> lane & 1) chosen = F(chosen, source[lane]);
  store(warp.row<s32>(o[0]), active, [&](int) { return chosen; });
}

void synchronize_warp(Warp& warp, const int32_t*, Mask) { warp.synced = warp.block->shared.synchronize_warp(); }

constexpr Instruction kInstructions[] = {
    {"shfl.sync.bfly.b32", "w|p,w,w,w,w", shuffle<butterfly, true>, Flow::together, 5},
    {"shfl.sync.bfly.b32", "w,w,w,w,w", shuffle<butterfly, false>, Flow::together, 4},
    {"shfl.sync.idx.b32", "w,w,w,w,w", shuffle<indexed, false>, Flow::together, 4},
    {"redux.sync.min.s32", "w,w,w", reduce<least>, Flow::together, 2},
    {"redux.sync.max.s32", "w,w,w", reduce<largest>, Flow::together, 2},
    {"bar.warp.sync", "w", synchronize_warp, Flow::together, 0},
    {"bar.sync", "0", nullptr, Flow::barrier},
    {"bra", "L", nullptr, Flow::branch},
    {"bra.uni", "L", nullptr, Flow::branch},
    {"ret", "", nullptr, Flow::exit},
};

}  // namespace

Instructions lanes() { return {kInstructions, std::size(kInstructions)}; }

}  // namespace equifast::ptx
