// A machine that executes decoded PTX. A warp has 32 lanes, and an instruction is executed for all lanes of a warp that
// are at it. Registers lie in rows: a row has one value for each lane, or, of a predicate, one bit for each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "counters.h"
#include "memory.h"

namespace equifast::ptx {

constexpr int kLanes = 32;
constexpr int kOperands = 16;

using Mask = uint32_t;  // a bit for each lane
constexpr Mask kAll = ~Mask(0);

struct Warp;

// How control goes on after an instruction.
enum class Flow : int32_t {
  next,
  branch,
  exit,
  barrier,   // all threads of the block have to come here
  together,  // all lanes of a mask have to be here
};

// Executes an instruction for the active lanes. The operands are offsets of rows in a warp's registers, or numbers.
using Run = void (*)(Warp& warp, const int32_t* operands, Mask active);

// An instruction that the machine knows. `operands` has a letter for each operand among the punctuation of PTX: p for a
// predicate, h, w and d for registers of 16, 32 and 64 bits or an immediate of as many, L for a label, and # for a
// number that is known when the program is decoded.
struct Instruction {
  const char* name;
  const char* operands;
  Run run;
  Flow flow = Flow::next;
  int32_t mask = -1;  // Flow::together: the operand that is the mask; -1 if all lanes have to be here
};

// The instructions of one file.
struct Instructions {
  const Instruction* begin;
  int32_t count;
};
Instructions arithmetic();
Instructions comparisons();
Instructions copies();
Instructions lanes();
Instructions matrices();
Instructions transfers();

// A decoded instruction.
struct Code {
  int32_t index;    // among all that the machine knows
  int32_t guard;    // the row of a predicate, or -1
  int32_t negated;  // the lanes act whose predicate is not set
  int32_t operands[kOperands];
};

struct Program {
  const Code* codes;
  int32_t count;
  int32_t row_bytes;  // of all registers of a warp
  // What the first rows hold before a kernel starts: constants, the same for every warp.
  const unsigned char* constants;
  int32_t constant_bytes;
  int32_t thread_row, block_row;  // of %tid.x and %ctaid.x
};

// What a kernel must not do, and who did it where.
struct Fault {
  std::string text;
  int32_t at;  // the index of the instruction
};

struct Block {
  Block(const void* args, int64_t args_bytes, int64_t shared)
      : parameter(args, args_bytes), global(args, args_bytes), shared(shared) {}

  Parameter parameter;
  Global global;
  Shared shared;
  Counters* counters = nullptr;  // if the launch is counted
  int64_t index = 0;
};

// Lanes of a warp that are at the same instruction.
struct Fragment {
  int32_t at;
  Mask lanes;
  bool waits;  // for other lanes of the warp
};

// What a lane copies to shared memory while it goes on.
struct Copy {
  int lane;
  uint32_t group;  // how many groups the lane had committed before
  uint32_t to;
  int bytes;
  unsigned char data[16];
};

struct Warp {
  // Runs until all lanes are at a barrier of the block, and returns true; or until all have returned.
  bool run();

  template <class T>
  T* row(int32_t offset) {
    return reinterpret_cast<T*>(rows + offset);
  }
  int thread(int lane) const { return first_thread + lane; }
  [[noreturn]] void fault(const std::string& text) const { throw Fault{text, at}; }
  [[noreturn]] void fault(int lane, const std::string& text) const {
    fault("thread " + std::to_string(thread(lane)) + " of block " + std::to_string(block->index) + " " + text);
  }

  Block* block;
  const Program* program;
  unsigned char* rows;
  int first_thread;
  int32_t at = 0;       // the instruction that is executed
  uint32_t synced = 0;  // when its lanes were last synchronized, for shared memory
  std::vector<Fragment> fragments;
  std::vector<Copy> copies;      // those that have not ended
  uint32_t groups[kLanes] = {};  // how many groups of copies each lane has committed

 private:
  bool advance(size_t fragment, int32_t limit);
  Mask gathered(const Instruction& instruction, const int32_t* operands, Mask lanes);
  void count(Mask active) const {
    if (block->counters) block->counters->executed(*this, active);
  }

  int64_t left = 0;  // how many instructions it may execute before the next barrier
};

}  // namespace equifast::ptx
