// The memories that a kernel reads and writes. Each checks every access: its bounds, its alignment and, where threads
// share the memory, that it was written before and that a barrier lies between accesses of different threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace equifast::ptx {

// Who reads or writes.
struct Access {
  int thread;       // in its block
  uint32_t synced;  // when its warp was last synchronized
  int bytes;
  bool writes;
  int used = bytes;                      // of these bytes; the address is a multiple of all of them
  const unsigned char* value = nullptr;  // what is written, where it is known
};

// What is wrong with an access.
struct Wrong {
  std::string text;
};

// The argument of the kernel.
class Parameter {
 public:
  using Address = uint64_t;
  static constexpr uint64_t kBase = 0x1000;  // its address

  Parameter(const void* begin, int64_t bytes)
      : begin_(static_cast<unsigned char*>(const_cast<void*>(begin))), bytes_(bytes) {}
  unsigned char* find(uint64_t address, const Access& access);  // or throws Wrong

 private:
  unsigned char* begin_;
  uint64_t bytes_;
};

// The memory of the tensors that a kernel's argument points to. AddressSanitizer knows, to the byte, what is allocated
// there. What else is allocated is not for this kernel.
class Global {
 public:
  using Address = uint64_t;
  Global(const void* args, int64_t bytes);
  unsigned char* find(uint64_t address, const Access& access);

 private:
  struct Allocation {
    uint64_t begin, bytes;
  };
  std::vector<Allocation> allocations_;  // in the order of use, the latest first
};

// Whether AddressSanitizer watches the memory of this process.
bool is_watched();

// The memory that the threads of a block share.
class Shared {
 public:
  using Address = uint32_t;
  static constexpr uint32_t kBase = 1024;  // its address

  explicit Shared(int64_t bytes) : memory_(bytes), cells_(bytes) {}
  unsigned char* find(uint32_t address, const Access& access);

  // A thread begins to write there while it goes on, and has written. Nobody comes there in between.
  void begin_copy(uint32_t address, const Access& access) { mark(address, access, kCopying); }
  unsigned char* end_copy(uint32_t address, const Access& access) {
    mark(address, access, 0);
    return find(address, access);
  }

  // All threads have come to a barrier, or a block begins. What came before is ordered before what follows.
  void synchronize() { synced_ = ++now_; }
  void begin_block() {
    synchronize();
    begun_ = now_;
  }
  // The same for the threads of one warp: the time from which on its accesses are not ordered.
  uint32_t synchronize_warp() { return ++now_; }

 private:
  // Who wrote and read a byte last, and when. Times are counted in synchronizations. A reader may be several: lanes
  // of one warp are kSeveral plus the warp, and those of different warps kMany.
  static constexpr uint16_t kSeveral = 1024, kMany = 2048;
  static constexpr uint16_t kCopying = 4096;  // beside the number of a writer that has begun
  struct Cell {
    uint32_t written = 0, read = 0;
    uint16_t writer = 0, reader = 0;
  };

  bool is_ordered(uint32_t time, uint16_t who, const Access& access) const;
  const char* read(Cell& cell, const Access& access);
  const char* write(Cell& cell, const Access& access, bool changes);
  void mark(uint32_t address, const Access& access, uint16_t as);

  std::vector<unsigned char> memory_;
  std::vector<Cell> cells_;
  uint32_t now_ = 0, synced_ = 0, begun_ = 0;
};

}  // namespace equifast::ptx
