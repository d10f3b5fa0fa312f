// Instructions that move values: between registers, memory and lanes; and matrix instructions, which take their
// operands from all lanes.
#include <cmath>
#include <cstring>

#include "rows.h"

namespace equifast::ptx {
namespace {

using u32 = uint32_t;
using u64 = uint64_t;
using s32 = int32_t;
using s64 = int64_t;

constexpr auto same = [](auto a) { return a; };

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
    for (int i = 0; i < kLanes; ++i) addresses[i] = static_cast<typename Memory::Address>(base[i] + s64(offset));
    Counters& counters = *warp.block->counters;
    if constexpr (std::is_same_v<Memory, Global>) counters.global(warp, addresses, active, bytes, writes);
    else counters.shared(warp, addresses, active, bytes);
  }
}

// Calls move(lane, place) for the active lanes, each with its place of `bytes` at [o[0] + o[1]].
template <class Memory, class F>
void visit(Warp& warp, const int32_t* o, Mask active, int bytes, bool writes, F move) {
  auto& memory = memory_of<Memory>(*warp.block);
  const auto* base = warp.row<typename Memory::Address>(o[0]);
  if (warp.block->counters) count<Memory>(warp, base, o[1], active, bytes, writes);
  int lane = 0;
  try {
    for (; lane < kLanes; ++lane) {
      if (!(active >> lane & 1)) continue;
      const auto address = static_cast<typename Memory::Address>(base[lane] + s64(o[1]));
      move(lane, memory.find(address, {warp.thread(lane), warp.synced, bytes, writes}));
    }
  } catch (const Wrong& wrong) {
    warp.fault(lane, wrong.text);
  }
}

// N values of type T into registers of type R, which may be wider.
template <class Memory, class T, class R = T, int N = 1>
void load(Warp& warp, const int32_t* o, Mask active) {
  visit<Memory>(warp, o + N, active, N * sizeof(T), false, [&](int lane, const unsigned char* place) {
    for (int i = 0; i < N; ++i) {
      T value;
      std::memcpy(&value, place + i * sizeof(T), sizeof(T));
      warp.row<R>(o[i])[lane] = static_cast<R>(value);
    }
  });
}

template <class Memory, class T, class R = T, int N = 1>
void save(Warp& warp, const int32_t* o, Mask active) {
  visit<Memory>(warp, o, active, N * sizeof(T), true, [&](int lane, unsigned char* place) {
    for (int i = 0; i < N; ++i) {
      const T value = static_cast<T>(warp.row<R>(o[2 + i])[lane]);
      std::memcpy(place + i * sizeof(T), &value, sizeof(T));
    }
  });
}

// The halves of a register, and a register of halves.
template <class Half, class Whole>
void part(Warp& warp, const int32_t* o, Mask active) {
  constexpr int kBits = 8 * sizeof(Half);
  const Whole* whole = warp.row<Whole>(o[2]);
  Half *low = warp.row<Half>(o[0]), *high = warp.row<Half>(o[1]);
  store(low, active, [&](int i) { return static_cast<Half>(whole[i]); });
  store(high, active, [&](int i) { return static_cast<Half>(whole[i] >> kBits); });
}
template <class Half, class Whole>
void join(Warp& warp, const int32_t* o, Mask active) {
  constexpr int kBits = 8 * sizeof(Half);
  const Half *low = warp.row<Half>(o[1]), *high = warp.row<Half>(o[2]);
  store(warp.row<Whole>(o[0]), active, [&](int i) { return low[i] | static_cast<Whole>(high[i]) << kBits; });
}

// Each lane takes the value of the lane whose number differs in the bits of o[3]; from itself, if that is beyond the
// bounds. o: the value and whether it came from another lane; the source, the bits, the bounds and the mask.
void shuffle(Warp& warp, const int32_t* o, Mask active) {
  const u32 *source = warp.row<u32>(o[2]), *bits = warp.row<u32>(o[3]), *bounds = warp.row<u32>(o[4]);
  u32 out[kLanes];
  Mask moved = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(active >> lane & 1)) continue;
    const int segment = bounds[lane] >> 8 & 31, last = (lane & segment) | (bounds[lane] & 31 & ~segment);
    const int from = lane ^ (bits[lane] & 31);
    const bool inside = from <= last;
    if (inside && !(active >> from & 1)) warp.fault(lane, "shuffles with a lane that isn't there");
    out[lane] = source[inside ? from : lane];
    moved |= static_cast<Mask>(inside) << lane;
  }
  store(warp.row<u32>(o[0]), active, [&](int i) { return out[i]; });
  set_predicate(warp, o[1], active, moved);
}

void synchronize_warp(Warp& warp, const int32_t*, Mask) { warp.synced = warp.block->shared.synchronize_warp(); }

// Numbers of a matrix, as a register holds them. Of tf32 the lower 13 bits are not read.
struct F16 {
  static constexpr int kOfWord = 2;
  static double number(u32 word, int i) {
    const auto bits = static_cast<uint16_t>(word >> 16 * i);
    _Float16 value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};
struct Tf32 {
  static constexpr int kOfWord = 1;
  static double number(u32 word, int) {
    float value;
    word &= 0xFFFFE000;
    std::memcpy(&value, &word, sizeof value);
    return value;
  }
};
struct Bf16 {
  static constexpr int kOfWord = 2;
  static double number(u32 word, int i) { return Tf32::number(i ? word & 0xFFFF0000 : word << 16, 0); }
};

// D = A·B + C for A [16, K], B [K, 8] and C [16, 8], K being 8 words. PTX leaves the order and the rounding of the sums
// open. Here products are exact, and their sum with C, in float64, is rounded once. With g = lane / 4 and t = lane % 4,
// word i of a lane is: of A, word t + 4·(i / 2) of row g + 8·(i % 2); of B, word t + 4·i of column g; of C and D,
// column 2·t + i % 2 of row g + 8·(i / 2).
template <class T>
void multiply_matrices(Warp& warp, const int32_t* o, Mask active) {
  constexpr int kDepth = 8 * T::kOfWord;
  double a[16][kDepth], b[8][kDepth];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int k = 0; k < T::kOfWord; ++k) {
      for (int i = 0; i < 4; ++i)
        a[g + 8 * (i % 2)][T::kOfWord * (t + 4 * (i / 2)) + k] = T::number(warp.row<u32>(o[4 + i])[lane], k);
      for (int i = 0; i < 2; ++i) b[g][T::kOfWord * (t + 4 * i) + k] = T::number(warp.row<u32>(o[8 + i])[lane], k);
    }
  }
  for (int i = 0; i < 4; ++i)
    store(warp.row<float>(o[i]), active, [&](int lane) {
      const double *row = a[lane / 4 + 8 * (i / 2)], *column = b[2 * (lane % 4) + i % 2];
      double sum = warp.row<float>(o[10 + i])[lane];
      for (int k = 0; k < kDepth; ++k) sum += row[k] * column[k];
      return static_cast<float>(sum);
    });
}

constexpr const char* kMatrices = "{w,w,w,w},{w,w,w,w},{w,w},{w,w,w,w}";

constexpr Instruction kInstructions[] = {
    {"mov.u16", "h,h", map<same, uint16_t, uint16_t>},
    {"mov.u32", "w,w", map<same, u32, u32>},
    {"mov.u64", "d,d", map<same, u64, u64>},
    {"mov.f32", "w,w", map<same, u32, u32>},
    {"mov.f64", "d,d", map<same, u64, u64>},
    {"mov.b32", "w,w", map<same, u32, u32>},
    {"mov.b64", "d,d", map<same, u64, u64>},
    {"mov.b32", "{h,h},w", part<uint16_t, u32>},
    {"mov.b32", "w,{h,h}", join<uint16_t, u32>},
    {"mov.b64", "{w,w},d", part<u32, u64>},
    {"mov.b64", "d,{w,w}", join<u32, u64>},
    {"cvta.to.global.u64", "d,d", map<same, u64, u64>},
    {"ld.param.u8", "h,[d+#]", load<Parameter, uint8_t, uint16_t>},
    {"ld.param.u8", "w,[d+#]", load<Parameter, uint8_t, u32>},
    {"ld.param.v2.u8", "{h,h},[d+#]", load<Parameter, uint8_t, uint16_t, 2>},
    {"ld.param.u32", "w,[d+#]", load<Parameter, u32>},
    {"ld.param.u32", "d,[d+#]", load<Parameter, u32, u64>},
    {"ld.param.s32", "d,[d+#]", load<Parameter, s32, s64>},
    {"ld.param.v2.u32", "{w,w},[d+#]", load<Parameter, u32, u32, 2>},
    {"ld.param.u64", "d,[d+#]", load<Parameter, u64>},
    {"ld.param.f64", "d,[d+#]", load<Parameter, u64>},
    {"ld.global.u16", "h,[d+#]", load<Global, uint16_t>},
    {"ld.global.u16", "w,[d+#]", load<Global, uint16_t, u32>},
    {"ld.global.v4.u16", "{h,h,h,h},[d+#]", load<Global, uint16_t, uint16_t, 4>},
    {"ld.global.u32", "w,[d+#]", load<Global, u32>},
    {"ld.global.f32", "w,[d+#]", load<Global, u32>},
    {"ld.global.nc.f32", "w,[d+#]", load<Global, u32>},
    {"ld.global.v2.u32", "{w,w},[d+#]", load<Global, u32, u32, 2>},
    {"ld.global.v4.u32", "{w,w,w,w},[d+#]", load<Global, u32, u32, 4>},
    {"ld.global.v4.f32", "{w,w,w,w},[d+#]", load<Global, u32, u32, 4>},
    {"ld.global.nc.v4.f32", "{w,w,w,w},[d+#]", load<Global, u32, u32, 4>},
    {"ld.global.u64", "d,[d+#]", load<Global, u64>},
    {"ld.global.f64", "d,[d+#]", load<Global, u64>},
    {"ld.global.v2.f64", "{d,d},[d+#]", load<Global, u64, u64, 2>},
    {"ld.shared.u32", "w,[w+#]", load<Shared, u32>},
    {"ld.shared.f32", "w,[w+#]", load<Shared, u32>},
    {"ld.shared.v2.u32", "{w,w},[w+#]", load<Shared, u32, u32, 2>},
    {"ld.shared.v4.u32", "{w,w,w,w},[w+#]", load<Shared, u32, u32, 4>},
    {"ld.shared.v4.f32", "{w,w,w,w},[w+#]", load<Shared, u32, u32, 4>},
    {"ld.shared.u64", "d,[w+#]", load<Shared, u64>},
    {"ld.shared.f64", "d,[w+#]", load<Shared, u64>},
    {"ld.shared.v2.f64", "{d,d},[w+#]", load<Shared, u64, u64, 2>},
    {"st.global.u8", "[d+#],h", save<Global, uint8_t, uint16_t>},
    {"st.global.u16", "[d+#],h", save<Global, uint16_t>},
    {"st.global.v4.u16", "[d+#],{h,h,h,h}", save<Global, uint16_t, uint16_t, 4>},
    {"st.global.u32", "[d+#],w", save<Global, u32>},
    {"st.global.f32", "[d+#],w", save<Global, u32>},
    {"st.global.v4.u32", "[d+#],{w,w,w,w}", save<Global, u32, u32, 4>},
    {"st.global.v4.f32", "[d+#],{w,w,w,w}", save<Global, u32, u32, 4>},
    {"st.global.u64", "[d+#],d", save<Global, u64>},
    {"st.global.f64", "[d+#],d", save<Global, u64>},
    {"st.global.v2.f64", "[d+#],{d,d}", save<Global, u64, u64, 2>},
    {"st.shared.u16", "[w+#],h", save<Shared, uint16_t>},
    {"st.shared.u32", "[w+#],w", save<Shared, u32>},
    {"st.shared.f32", "[w+#],w", save<Shared, u32>},
    {"st.shared.v2.u32", "[w+#],{w,w}", save<Shared, u32, u32, 2>},
    {"st.shared.v2.f32", "[w+#],{w,w}", save<Shared, u32, u32, 2>},
    {"st.shared.v4.u32", "[w+#],{w,w,w,w}", save<Shared, u32, u32, 4>},
    {"st.shared.v4.f32", "[w+#],{w,w,w,w}", save<Shared, u32, u32, 4>},
    {"st.shared.u64", "[w+#],d", save<Shared, u64>},
    {"st.shared.f64", "[w+#],d", save<Shared, u64>},
    {"st.shared.v2.f64", "[w+#],{d,d}", save<Shared, u64, u64, 2>},
    {"shfl.sync.bfly.b32", "w|p,w,w,w,w", shuffle, Flow::together, 5},
    {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", kMatrices, multiply_matrices<F16>, Flow::together},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", kMatrices, multiply_matrices<Bf16>, Flow::together},
    {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", kMatrices, multiply_matrices<Tf32>, Flow::together},
    {"bar.warp.sync", "w", synchronize_warp, Flow::together, 0},
    {"bar.sync", "0", nullptr, Flow::barrier},
    {"bra", "L", nullptr, Flow::branch},
    {"bra.uni", "L", nullptr, Flow::branch},
    {"ret", "", nullptr, Flow::exit},
};

}  // namespace

Instructions transfers() { return {kInstructions, std::size(kInstructions)}; }

}  // namespace equifast::ptx
