#include "machine.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace equifast::ptx {
namespace {

// Of a warp between two barriers. A kernel of the tests executes far fewer, so more are a loop without an end.
constexpr int64_t kMostInstructions = 1 << 26;

const std::vector<Instruction>& known() {
  static const std::vector<Instruction> all = [] {
    std::vector<Instruction> out;
    for (const Instructions& part : {arithmetic(), comparisons(), copies(), lanes(), matrices(), transfers()})
      out.insert(out.end(), part.begin, part.begin + part.count);
    return out;
  }();
  return all;
}

}  // namespace

// The lanes that have to execute an instruction together with `lanes`.
Mask Warp::gathered(const Instruction& instruction, const int32_t* operands, Mask lanes) {
  return instruction.mask < 0 ? kAll : row<Mask>(operands[instruction.mask])[std::countr_zero(lanes)];
}

bool Warp::run() {
  left = kMostInstructions;
  for (;;) {
    // Lanes that have come to the same instruction go on together.
    std::sort(fragments.begin(), fragments.end(), [](auto& a, auto& b) { return a.at < b.at; });
    for (size_t i = 1; i < fragments.size();) {
      if (fragments[i].at != fragments[i - 1].at) {
        ++i;
        continue;
      }
      fragments[i - 1].lanes |= fragments[i].lanes;
      fragments[i - 1].waits = false;
      fragments.erase(fragments.begin() + static_cast<std::ptrdiff_t>(i));
    }
    // Those go first that are behind, so that they catch up with the others where branches join.
    const auto next = std::find_if(fragments.begin(), fragments.end(), [](auto& f) { return !f.waits; });
    if (next == fragments.end()) {
      if (fragments.empty()) return false;
      at = fragments[0].at;
      fault(std::countr_zero(fragments[0].lanes), "waits for threads of its warp that never come there");
    }
    const auto after = next + 1;
    if (advance(next - fragments.begin(), after == fragments.end() ? program->count : after->at)) return true;
  }
}

// Runs the lanes of a fragment until they come to `limit`, part, wait or return. Returns true at a barrier of the
// block.
bool Warp::advance(size_t fragment, int32_t limit) {
  const bool whole = fragments.size() == 1;
  const Mask lanes = fragments[fragment].lanes;
  const Instruction* instructions = known().data();
  for (at = fragments[fragment].at; at < limit; ++at) {
    const Code& code = program->codes[at];
    const Instruction& instruction = instructions[code.index];
    Mask active = lanes;
    if (code.guard >= 0) {
      const Mask predicate = *row<Mask>(code.guard);
      active &= code.negated ? ~predicate : predicate;
    }
    if (--left == 0) fault(std::countr_zero(lanes), "has executed 2^26 instructions and no barrier");
    switch (instruction.flow) {
      case Flow::together:
        if (gathered(instruction, code.operands, lanes) != active) {
          fragments[fragment] = {at, lanes, true};
          return false;
        }
        [[fallthrough]];
      case Flow::next:
        count(active);
        if (active) instruction.run(*this, code.operands, active);
        break;
      case Flow::branch:
        count(lanes);
        if (active == lanes) {
          at = code.operands[0] - 1;
          if (whole) break;
          fragments[fragment].at = code.operands[0];
          return false;
        }
        if (!active) break;
        if (block->counters) block->counters->parted(*this);
        fragments[fragment] = {at + 1, lanes & ~active, false};
        fragments.push_back({code.operands[0], active, false});
        return false;
      case Flow::exit:
        count(active);
        fragments[fragment] = {at + 1, lanes & ~active, false};
        if (!fragments[fragment].lanes) fragments.erase(fragments.begin() + static_cast<std::ptrdiff_t>(fragment));
        return false;
      case Flow::barrier:
        fragments[fragment] = {at, lanes, true};
        if (active != kAll) return false;
        count(active);
        fragments[fragment] = {at + 1, lanes, false};
        return true;
    }
  }
  if (at == program->count) {
    --at;
    fault(std::countr_zero(lanes), "runs beyond the last instruction");
  }
  fragments[fragment].at = at;
  return false;
}

namespace {

// Runs the warps of a block in turn, each until it comes to a barrier, which opens when all have come.
void run_block(Block& block, std::vector<Warp>& warps) {
  block.shared.begin_block();
  for (Warp& warp : warps) {
    warp.fragments.assign(1, {0, kAll, false});
    warp.copies.clear();
    std::fill_n(warp.row<uint32_t>(warp.program->block_row), kLanes, static_cast<uint32_t>(block.index));
  }
  for (;;) {
    const Warp *waits = nullptr, *returned = nullptr;
    for (Warp& warp : warps) (warp.run() ? waits : returned) = &warp;
    if (!waits) return;
    if (returned)
      waits->fault(0, "waits at a barrier, but thread " + std::to_string(returned->thread(0)) + " returned");
    block.shared.synchronize();
  }
}

}  // namespace
}  // namespace equifast::ptx

#pragma GCC visibility push(default)
extern "C" {

using equifast::ptx::kLanes;

// The instruction of this index among all that the machine knows; null beyond the last.
const equifast::ptx::Instruction* ptx_instruction(int32_t index) {
  const auto& all = equifast::ptx::known();
  return index < static_cast<int32_t>(all.size()) ? &all[index] : nullptr;
}

int32_t ptx_parameter_address() { return equifast::ptx::Parameter::kBase; }
int32_t ptx_shared_address() { return equifast::ptx::Shared::kBase; }
bool ptx_is_watched() { return equifast::ptx::is_watched(); }

// Runs a program on `blocks` blocks of `threads` threads, whole warps. Returns null, or what went wrong at instruction
// `at`; the text is kept until the next call. If `counts` isn't null, adds to it what each instruction does, and sets
// sectors[0] and sectors[1] to how many sectors of global memory are read and written.
const char* ptx_run(const equifast::ptx::Program* program, int64_t blocks, int32_t threads, int64_t shared,
                    const void* args, int64_t args_bytes, int32_t* at, equifast::ptx::Count* counts, int64_t* sectors) {
  using namespace equifast::ptx;
  static std::vector<unsigned char> rows;  // kept, since fresh memory costs more than most launches
  static std::string wrong;
  Block block(args, args_bytes, shared);
  Counters counters(counts);
  if (counts) block.counters = &counters;
  std::vector<Warp> warps(threads / kLanes);
  const size_t row_bytes = program->row_bytes;
  if (rows.size() < warps.size() * row_bytes) rows.resize(warps.size() * row_bytes);
  for (size_t i = 0; i < warps.size(); ++i) {
    warps[i].block = &block;
    warps[i].program = program;
    warps[i].rows = rows.data() + i * row_bytes;
    warps[i].first_thread = static_cast<int>(i) * kLanes;
    std::memcpy(warps[i].rows, program->constants, program->constant_bytes);
    for (int lane = 0; lane < kLanes; ++lane) warps[i].row<int32_t>(program->thread_row)[lane] = warps[i].thread(lane);
  }
  try {
    for (; block.index < blocks; ++block.index) run_block(block, warps);
  } catch (const Fault& fault) {
    wrong = fault.text;
    *at = fault.at;
    return wrong.c_str();
  }
  if (counts) sectors[0] = counters.read.size(), sectors[1] = counters.written.size();
  return nullptr;
}
}
