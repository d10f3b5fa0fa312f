// What a launch does, in numbers: how often each instruction is executed, and what its accesses to memory cost.
#pragma once

#include <cstdint>
#include <unordered_map>

namespace equifast::ptx {

struct Warp;

// Of one instruction, summed over all warps of a launch.
struct Count {
  int64_t executed;      // how often a warp executes it, even if no lane acts
  int64_t lanes;         // how many lanes act
  int64_t transactions;  // sectors of global memory, or wavefronts of shared memory
  int64_t conflicts;     // wavefronts beyond the least for as many bytes; or, of a branch, how often lanes part
};

// The sectors of global memory that a launch touches, each once.
class Sectors {
 public:
  static constexpr uint64_t kBytes = 32;
  void add(uint64_t sector) { pages_[sector / 64] |= UINT64_C(1) << sector % 64; }
  int64_t size() const;

 private:
  std::unordered_map<uint64_t, uint64_t> pages_;  // a bit for each of 64 sectors
};

struct Counters {
  explicit Counters(Count* counts) : counts(counts) {}

  // The instruction that a warp is at, executed for the active lanes.
  void executed(const Warp& warp, uint32_t active);
  // The lanes of a warp part at a branch.
  void parted(const Warp& warp);
  // The active lanes access `bytes` bytes each at these addresses.
  void global(const Warp& warp, const uint64_t* addresses, uint32_t active, int bytes, bool writes);
  void shared(const Warp& warp, const uint32_t* addresses, uint32_t active, int bytes);

  Count* counts;  // one for each instruction of the program
  Sectors read, written;
};

// How many wavefronts an access to shared memory takes, and how many it would take without bank conflicts. There are 32
// banks, and word n lies in bank n % 32. A wavefront brings one word of each bank, to any number of lanes. Lanes that
// access 8 bytes go half a warp at a time, and lanes that access 16 a quarter at a time.
struct Wavefronts {
  int taken, least;
};
Wavefronts wavefronts(const uint32_t* addresses, uint32_t active, int bytes);

}  // namespace equifast::ptx
