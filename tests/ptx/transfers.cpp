// Instructions that move values between registers and memory.
#include <cstring>

#include "accesses.h"
#include "rows.h"

namespace equifast::ptx {
namespace {

using u32 = uint32_t;
using u64 = uint64_t;
using s32 = int32_t;
using s64 = int64_t;

constexpr auto same = [](auto a) { return a; };

// N values of type T into registers of type R, which may be wider.
template <class Memory, class T, class R = T, int N = 1>
void load(Warp& warp, const int32_t* o, Mask active) {
  visit<Memory>(warp, o + N, active, N * sizeof(T), nullptr, [&](int lane, const unsigned char* place) {
    for (int i = 0; i < N; ++i) {
      T value;
      std::memcpy(&value, place + i * sizeof(T), sizeof(T));
      warp.row<R>(o[i])[lane] = static_cast<R>(value);
    }
  });
}

template <class Memory, class T, class R = T, int N = 1>
void save(Warp& warp, const int32_t* o, Mask active) {
  T values[kLanes][N];
  for (int i = 0; i < N; ++i)
    for (int lane = 0; lane < kLanes; ++lane) values[lane][i] = static_cast<T>(warp.row<R>(o[2 + i])[lane]);
  const auto* bytes = reinterpret_cast<const unsigned char*>(values);
  visit<Memory>(warp, o, active, sizeof values[0], bytes,
                [&](int lane, unsigned char* place) { std::memcpy(place, values[lane], sizeof values[0]); });
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

constexpr Instruction kInstructions[] = {
    {"mov.u16", "h,h", map<same, uint16_t, uint16_t>},
    {"mov.b16", "h,h", map<same, uint16_t, uint16_t>},
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
    {"ld.param.v4.u8", "{h,h,h,h},[d+#]", load<Parameter, uint8_t, uint16_t, 4>},
    {"ld.param.u32", "w,[d+#]", load<Parameter, u32>},
    {"ld.param.u32", "d,[d+#]", load<Parameter, u32, u64>},
    {"ld.param.s32", "d,[d+#]", load<Parameter, s32, s64>},
    {"ld.param.v2.u32", "{w,w},[d+#]", load<Parameter, u32, u32, 2>},
    {"ld.param.u64", "d,[d+#]", load<Parameter, u64>},
    {"ld.param.b32", "w,[d+#]", load<Parameter, u32>},
    {"ld.param.b64", "d,[d+#]", load<Parameter, u64>},
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
    {"ld.global.b16", "h,[d+#]", load<Global, uint16_t>},
    {"ld.global.b32", "w,[d+#]", load<Global, u32>},
    {"ld.global.v2.b32", "{w,w},[d+#]", load<Global, u32, u32, 2>},
    {"ld.global.v4.b32", "{w,w,w,w},[d+#]", load<Global, u32, u32, 4>},
    {"ld.global.b64", "d,[d+#]", load<Global, u64>},
    {"ld.global.v2.b64", "{d,d},[d+#]", load<Global, u64, u64, 2>},
    {"ld.shared.u32", "w,[w+#]", load<Shared, u32>},
    {"ld.shared.f32", "w,[w+#]", load<Shared, u32>},
    {"ld.shared.v2.u32", "{w,w},[w+#]", load<Shared, u32, u32, 2>},
    {"ld.shared.v4.u32", "{w,w,w,w},[w+#]", load<Shared, u32, u32, 4>},
    {"ld.shared.v4.f32", "{w,w,w,w},[w+#]", load<Shared, u32, u32, 4>},
    {"ld.shared.u64", "d,[w+#]", load<Shared, u64>},
    {"ld.shared.f64", "d,[w+#]", load<Shared, u64>},
    {"ld.shared.v2.f64", "{d,d},[w+#]", load<Shared, u64, u64, 2>},
    {"ld.shared.b8", "h,[w+#]", load<Shared, uint8_t, uint16_t>},
    {"ld.shared.s32", "d,[w+#]", load<Shared, s32, s64>},
    {"ld.shared.b16", "h,[w+#]", load<Shared, uint16_t>},
    {"ld.shared.v2.b16", "{h,h},[w+#]", load<Shared, uint16_t, uint16_t, 2>},
    {"ld.shared.v4.b16", "{h,h,h,h},[w+#]", load<Shared, uint16_t, uint16_t, 4>},
    {"ld.shared.b32", "w,[w+#]", load<Shared, u32>},
    {"ld.shared.v2.b32", "{w,w},[w+#]", load<Shared, u32, u32, 2>},
    {"ld.shared.v4.b32", "{w,w,w,w},[w+#]", load<Shared, u32, u32, 4>},
    {"ld.shared.b64", "d,[w+#]", load<Shared, u64>},
    {"ld.shared.v2.b64", "{d,d},[w+#]", load<Shared, u64, u64, 2>},
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
    {"st.global.b16", "[d+#],h", save<Global, uint16_t>},
    {"st.global.b32", "[d+#],w", save<Global, u32>},
    {"st.global.v2.b32", "[d+#],{w,w}", save<Global, u32, u32, 2>},
    {"st.global.v4.b32", "[d+#],{w,w,w,w}", save<Global, u32, u32, 4>},
    {"st.global.b64", "[d+#],d", save<Global, u64>},
    {"st.global.v2.b64", "[d+#],{d,d}", save<Global, u64, u64, 2>},
    {"st.shared.u32", "[w+#],w", save<Shared, u32>},
    {"st.shared.f32", "[w+#],w", save<Shared, u32>},
    {"st.shared.v2.u32", "[w+#],{w,w}", save<Shared, u32, u32, 2>},
    {"st.shared.v2.f32", "[w+#],{w,w}", save<Shared, u32, u32, 2>},
    {"st.shared.v4.u32", "[w+#],{w,w,w,w}", save<Shared, u32, u32, 4>},
    {"st.shared.v4.f32", "[w+#],{w,w,w,w}", save<Shared, u32, u32, 4>},
    {"st.shared.u64", "[w+#],d", save<Shared, u64>},
    {"st.shared.f64", "[w+#],d", save<Shared, u64>},
    {"st.shared.v2.f64", "[w+#],{d,d}", save<Shared, u64, u64, 2>},
    {"st.shared.b8", "[w+#],h", save<Shared, uint8_t, uint16_t>},
    {"st.shared.v2.b8", "[w+#],{h,h}", save<Shared, uint8_t, uint16_t, 2>},
    {"st.shared.b16", "[w+#],h", save<Shared, uint16_t>},
    {"st.shared.v2.b16", "[w+#],{h,h}", save<Shared, uint16_t, uint16_t, 2>},
    {"st.shared.v4.b16", "[w+#],{h,h,h,h}", save<Shared, uint16_t, uint16_t, 4>},
    {"st.shared.b16", "[w+#],d", save<Shared, uint16_t, u64>},
    {"st.shared.b32", "[w+#],w", save<Shared, u32>},
    {"st.shared.v2.b32", "[w+#],{w,w}", save<Shared, u32, u32, 2>},
    {"st.shared.v4.b32", "[w+#],{w,w,w,w}", save<Shared, u32, u32, 4>},
    {"st.shared.b64", "[w+#],d", save<Shared, u64>},
    {"st.shared.v2.b64", "[w+#],{d,d}", save<Shared, u64, u64, 2>},
};

}  // namespace

Instructions transfers() { return {kInstructions, std::size(kInstructions)}; }

}  // namespace equifast::ptx
