#include "counters.h"

#include <algorithm>
#include <bit>

#include "machine.h"

namespace equifast::ptx {

int64_t Sectors::size() const {
  int64_t count = 0;
  for (const auto& [page, bits] : pages_) count += std::popcount(bits);
  return count;
}

void Counters::executed(const Warp& warp, Mask active) {
  ++counts[warp.at].executed;
  counts[warp.at].lanes += std::popcount(active);
}

void Counters::parted(const Warp& warp) { ++counts[warp.at].conflicts; }

void Counters::global(const Warp& warp, const uint64_t* addresses, Mask active, int bytes, bool writes) {
  uint64_t found[2 * kLanes];
  int count = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(active >> lane & 1)) continue;
    const uint64_t first = addresses[lane] / Sectors::kBytes, last = (addresses[lane] + bytes - 1) / Sectors::kBytes;
    found[count++] = first;
    if (last != first) found[count++] = last;
  }
  std::sort(found, found + count);
  const auto end = std::unique(found, found + count);
  counts[warp.at].transactions += end - found;
  std::for_each(found, end, [&](uint64_t sector) { (writes ? written : read).add(sector); });
}

void Counters::shared(const Warp& warp, const uint32_t* addresses, Mask active, int bytes) {
  const Wavefronts found = wavefronts(addresses, active, bytes);
  counts[warp.at].transactions += found.taken;
  counts[warp.at].conflicts += found.taken - found.least;
}

Wavefronts wavefronts(const uint32_t* addresses, Mask active, int bytes) {
  constexpr int kBanks = 32, kBankBytes = 4;
  const int words = std::max(bytes / kBankBytes, 1), together = kLanes / words;
  Wavefronts sum = {0, 0};
  for (int first = 0; first < kLanes; first += together) {
    uint32_t found[kLanes];
    int count = 0, of_bank[kBanks] = {};
    for (int lane = first; lane < first + together; ++lane)
      if (active >> lane & 1)
        for (int k = 0; k < words; ++k) found[count++] = addresses[lane] / kBankBytes + k;
    if (count == 0) continue;
    std::sort(found, found + count);
    std::for_each(found, std::unique(found, found + count), [&](uint32_t word) { ++of_bank[word % kBanks]; });
    sum.taken += *std::max_element(of_bank, of_bank + kBanks);
    ++sum.least;
  }
  return sum;
}

}  // namespace equifast::ptx
