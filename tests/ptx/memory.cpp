#include "memory.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

// AddressSanitizer defines these if it is in the process.
extern "C" {
__attribute__((weak)) void* __asan_region_is_poisoned(void* begin, size_t bytes);
__attribute__((weak)) const char* __asan_locate_address(void* address, char* name, size_t name_bytes, void** begin,
                                                        size_t* bytes);
}

namespace equifast::ptx {
namespace {

std::string hexadecimal(uint64_t address) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(address));
  return text;
}

std::string described(uint64_t address, const Access& access) {
  return std::string(access.writes ? "writes " : "reads ") + std::to_string(access.bytes) + " bytes at " +
         hexadecimal(address);
}

// "12 bytes after the 400 bytes of …", for an access that is not within them.
std::string distance(uint64_t address, uint64_t begin, uint64_t bytes, const char* what) {
  const bool before = address < begin, within = !before && address < begin + bytes;
  const uint64_t far = before ? begin - address : within ? address - begin : address - (begin + bytes);
  return std::to_string(far) +
         (before   ? " bytes before"
          : within ? " bytes into"
                   : " bytes after") +
         " the " + std::to_string(bytes) + " bytes of " + what;
}

[[noreturn]] void outside(uint64_t address, const Access& access, uint64_t begin, uint64_t bytes, const char* what) {
  throw Wrong{described(address, access) + ", " + distance(address, begin, bytes, what)};
}

[[noreturn]] void misaligned(uint64_t address, const Access& access) {
  throw Wrong{described(address, access) + ", which is not a multiple of as many"};
}

bool is_within(uint64_t address, int bytes, uint64_t begin, uint64_t size) {
  return address >= begin && size >= static_cast<uint64_t>(bytes) && address - begin <= size - bytes;
}

}  // namespace

bool is_watched() { return __asan_region_is_poisoned && __asan_locate_address; }

unsigned char* Parameter::find(uint64_t address, const Access& access) {
  if (address % access.bytes) misaligned(address, access);
  if (!is_within(address, access.bytes, kBase, bytes_))
    outside(address, access, kBase, bytes_, "the kernel's argument");
  return begin_ + (address - kBase);
}

Global::Global(const void* args, int64_t bytes) {
  for (int64_t i = 0; i + 8 <= bytes; i += 8) {
    void* pointer = nullptr;
    std::memcpy(&pointer, static_cast<const char*>(args) + i, sizeof pointer);
    // Most words are no addresses: zeros, small integers, or floating-point numbers.
    if (reinterpret_cast<uint64_t>(pointer) >> 32 == 0 || __asan_region_is_poisoned(pointer, 1)) continue;
    char name[1];
    void* begin = nullptr;
    size_t size = 0;
    if (std::strcmp(__asan_locate_address(pointer, name, sizeof name, &begin, &size), "heap") == 0)
      allocations_.push_back({reinterpret_cast<uint64_t>(begin), size});
  }
}

unsigned char* Global::find(uint64_t address, const Access& access) {
  if (address % access.bytes) misaligned(address, access);
  for (size_t i = 0; i < allocations_.size(); ++i) {
    if (!is_within(address, access.used, allocations_[i].begin, allocations_[i].bytes)) continue;
    if (i > 0) std::swap(allocations_[i], allocations_[i - 1]);
    return reinterpret_cast<unsigned char*>(address);
  }
  if (allocations_.empty()) throw Wrong{described(address, access) + ", and has no tensor"};
  const auto far = [address](const Allocation& a) { return std::min(address - a.begin, a.begin - address); };
  const Allocation& nearest =
      *std::min_element(allocations_.begin(), allocations_.end(), [&](auto& a, auto& b) { return far(a) < far(b); });
  outside(address, access, nearest.begin, nearest.bytes, "the nearest tensor");
}

bool Shared::is_ordered(uint32_t time, uint16_t who, const Access& access) const {
  if (time < synced_ || who == access.thread) return true;
  const int warp = who < kSeveral ? who / 32 : who - kSeveral;  // beyond all warps if there were many
  return warp == access.thread / 32 && time < access.synced;
}

const char* Shared::read(Cell& cell, const Access& access) {
  if (cell.written < begun_) return "which no thread of the block has written";
  if (cell.writer & kCopying) return "which a copy writes that nobody has waited for";
  if (!is_ordered(cell.written, cell.writer, access)) return "which another thread wrote with no barrier between";
  if (cell.read < begun_ || is_ordered(cell.read, cell.reader, access))
    cell.reader = static_cast<uint16_t>(access.thread);
  else if (cell.reader != kMany)
    cell.reader = (cell.reader < kSeveral ? cell.reader / 32 : cell.reader - kSeveral) == access.thread / 32
                      ? static_cast<uint16_t>(kSeveral + access.thread / 32)
                      : kMany;
  cell.read = now_;
  return nullptr;
}

// Threads may write the same value to one place: Triton lets those do so that hold copies of it.
const char* Shared::write(Cell& cell, const Access& access, bool changes) {
  if (cell.written >= begun_ && cell.writer & kCopying) return "which a copy writes that nobody has waited for";
  if (changes && cell.written >= begun_ && !is_ordered(cell.written, cell.writer, access))
    return "which another thread wrote with no barrier between";
  if (cell.read >= begun_ && !is_ordered(cell.read, cell.reader, access))
    return "which another thread read with no barrier between";
  cell.written = now_;
  cell.writer = static_cast<uint16_t>(access.thread);
  return nullptr;
}

unsigned char* Shared::find(uint32_t address, const Access& access) {
  if (address % access.bytes) misaligned(address, access);
  if (!is_within(address, access.bytes, kBase, memory_.size()))
    outside(address, access, kBase, memory_.size(), "shared memory");
  for (int i = 0; i < access.bytes; ++i) {
    Cell& cell = cells_[address - kBase + i];
    const bool changes = !access.value || memory_[address - kBase + i] != access.value[i];
    if (const char* wrong = access.writes ? write(cell, access, changes) : read(cell, access))
      throw Wrong{described(address, access) + " of shared memory, " + wrong};
  }
  return memory_.data() + (address - kBase);
}

void Shared::mark(uint32_t address, const Access& access, uint16_t as) {
  if (as) find(address, access);
  for (int i = 0; i < access.bytes; ++i) {
    Cell& cell = cells_[address - kBase + i];
    cell.writer = static_cast<uint16_t>((cell.writer & ~kCopying) | as);
  }
}

}  // namespace equifast::ptx
