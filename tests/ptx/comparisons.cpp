// Instructions that make or read predicates.
#include <cmath>

#include "rows.h"

namespace equifast::ptx {
namespace {

constexpr auto eq = [](auto a, auto b) { return a == b; };
constexpr auto ne = [](auto a, auto b) { return a != b; };
constexpr auto lt = [](auto a, auto b) { return a < b; };
constexpr auto le = [](auto a, auto b) { return a <= b; };
constexpr auto gt = [](auto a, auto b) { return a > b; };
constexpr auto ge = [](auto a, auto b) { return a >= b; };
// Of floating-point numbers: true if neither is a NaN and they differ.
constexpr auto different = [](auto a, auto b) { return a < b || a > b; };
// These are true where one is a NaN, and those above are false.
constexpr auto equ = [](auto a, auto b) { return !(a < b) && !(a > b); };
constexpr auto neu = [](auto a, auto b) { return !(a == b); };
constexpr auto ltu = [](auto a, auto b) { return !(a >= b); };
constexpr auto leu = [](auto a, auto b) { return !(a > b); };
constexpr auto geu = [](auto a, auto b) { return !(a < b); };
constexpr auto num = [](auto a, auto b) { return a == a && b == b; };
constexpr auto nan = [](auto a, auto b) { return a != a || b != b; };

template <auto F, class T>
void compare(Warp& warp, const int32_t* o, Mask active) {
  const T *a = warp.row<T>(o[1]), *b = warp.row<T>(o[2]);
  Mask bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<Mask>(F(a[i], b[i])) << i;
  set_predicate(warp, o[0], active, bits);
}

// The same of two halves: a predicate for the lower ones, and one for the upper.
template <auto F>
void compare_halves(Warp& warp, const int32_t* o, Mask active) {
  const auto *a = warp.row<_Float16>(o[2]), *b = warp.row<_Float16>(o[3]);
  for (int half = 0; half < 2; ++half) {
    Mask bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= static_cast<Mask>(F(a[2 * i + half], b[2 * i + half])) << i;
    set_predicate(warp, o[half], active, bits);
  }
}

template <class T>
void select(Warp& warp, const int32_t* o, Mask active) {
  const T *a = warp.row<T>(o[1]), *b = warp.row<T>(o[2]);
  const Mask chosen = *warp.row<Mask>(o[3]);
  store(warp.row<T>(o[0]), active, [&](int i) { return chosen >> i & 1 ? a[i] : b[i]; });
}

template <auto F>
void combine(Warp& warp, const int32_t* o, Mask active) {
  set_predicate(warp, o[0], active, F(*warp.row<Mask>(o[1]), *warp.row<Mask>(o[2])));
}
template <auto F>
void change(Warp& warp, const int32_t* o, Mask active) {
  set_predicate(warp, o[0], active, F(*warp.row<Mask>(o[1])));
}

constexpr Instruction kInstructions[] = {
    {"setp.eq.s16", "p,h,h", compare<eq, uint16_t>},
    {"setp.ne.s16", "p,h,h", compare<ne, uint16_t>},
    {"setp.lt.s16", "p,h,h", compare<lt, int16_t>},
    {"setp.eq.b16", "p,h,h", compare<eq, uint16_t>},
    {"setp.ne.b16", "p,h,h", compare<ne, uint16_t>},
    {"setp.eq.b32", "p,w,w", compare<eq, uint32_t>},
    {"setp.ne.b32", "p,w,w", compare<ne, uint32_t>},
    {"setp.eq.s32", "p,w,w", compare<eq, int32_t>},
    {"setp.ne.s32", "p,w,w", compare<ne, int32_t>},
    {"setp.lt.s32", "p,w,w", compare<lt, int32_t>},
    {"setp.le.s32", "p,w,w", compare<le, int32_t>},
    {"setp.gt.s32", "p,w,w", compare<gt, int32_t>},
    {"setp.ge.s32", "p,w,w", compare<ge, int32_t>},
    {"setp.lt.u32", "p,w,w", compare<lt, uint32_t>},
    {"setp.le.u32", "p,w,w", compare<le, uint32_t>},
    {"setp.gt.u32", "p,w,w", compare<gt, uint32_t>},
    {"setp.ge.u32", "p,w,w", compare<ge, uint32_t>},
    {"setp.eq.b64", "p,d,d", compare<eq, uint64_t>},
    {"setp.ne.b64", "p,d,d", compare<ne, uint64_t>},
    {"setp.eq.s64", "p,d,d", compare<eq, int64_t>},
    {"setp.ne.s64", "p,d,d", compare<ne, int64_t>},
    {"setp.lt.s64", "p,d,d", compare<lt, int64_t>},
    {"setp.le.s64", "p,d,d", compare<le, int64_t>},
    {"setp.gt.s64", "p,d,d", compare<gt, int64_t>},
    {"setp.ge.s64", "p,d,d", compare<ge, int64_t>},
    {"setp.lt.u64", "p,d,d", compare<lt, uint64_t>},
    {"setp.gt.u64", "p,d,d", compare<gt, uint64_t>},
    {"setp.eq.f16", "p,h,h", compare<eq, _Float16>},
    {"setp.nan.f16", "p,h,h", compare<nan, _Float16>},
    {"setp.ne.f16", "p,h,h", compare<different, _Float16>},
    {"setp.neu.f16", "p,h,h", compare<neu, _Float16>},
    {"setp.ne.f16x2", "p|p,w,w", compare_halves<different>},
    {"setp.neu.f16x2", "p|p,w,w", compare_halves<neu>},
    {"setp.num.f16x2", "p|p,w,w", compare_halves<num>},
    {"setp.equ.f16", "p,h,h", compare<equ, _Float16>},
    {"setp.eq.f32", "p,w,w", compare<eq, float>},
    {"setp.ne.f32", "p,w,w", compare<different, float>},
    {"setp.le.f32", "p,w,w", compare<le, float>},
    {"setp.equ.f32", "p,w,w", compare<equ, float>},
    {"setp.lt.f32", "p,w,w", compare<lt, float>},
    {"setp.gt.f32", "p,w,w", compare<gt, float>},
    {"setp.ge.f32", "p,w,w", compare<ge, float>},
    {"setp.neu.f32", "p,w,w", compare<neu, float>},
    {"setp.ltu.f32", "p,w,w", compare<ltu, float>},
    {"setp.leu.f32", "p,w,w", compare<leu, float>},
    {"setp.geu.f32", "p,w,w", compare<geu, float>},
    {"setp.nan.f32", "p,w,w", compare<nan, float>},
    {"setp.eq.f64", "p,d,d", compare<eq, double>},
    {"setp.ne.f64", "p,d,d", compare<different, double>},
    {"setp.equ.f64", "p,d,d", compare<equ, double>},
    {"setp.lt.f64", "p,d,d", compare<lt, double>},
    {"setp.le.f64", "p,d,d", compare<le, double>},
    {"setp.gt.f64", "p,d,d", compare<gt, double>},
    {"setp.ge.f64", "p,d,d", compare<ge, double>},
    {"setp.neu.f64", "p,d,d", compare<neu, double>},
    {"setp.leu.f64", "p,d,d", compare<leu, double>},
    {"setp.geu.f64", "p,d,d", compare<geu, double>},
    {"setp.nan.f64", "p,d,d", compare<nan, double>},
    {"setp.num.f16", "p,h,h", compare<num, _Float16>},
    {"setp.num.f32", "p,w,w", compare<num, float>},
    {"setp.num.f64", "p,d,d", compare<num, double>},
    {"selp.b16", "h,h,h,p", select<uint16_t>},
    {"selp.u16", "h,h,h,p", select<uint16_t>},
    {"selp.b32", "w,w,w,p", select<uint32_t>},
    {"selp.s32", "w,w,w,p", select<uint32_t>},
    {"selp.u32", "w,w,w,p", select<uint32_t>},
    {"selp.f32", "w,w,w,p", select<uint32_t>},
    {"selp.b64", "d,d,d,p", select<uint64_t>},
    {"selp.f64", "d,d,d,p", select<uint64_t>},
    {"and.pred", "p,p,p", combine<[](Mask a, Mask b) { return a & b; }>},
    {"or.pred", "p,p,p", combine<[](Mask a, Mask b) { return a | b; }>},
    {"xor.pred", "p,p,p", combine<[](Mask a, Mask b) { return a ^ b; }>},
    {"not.pred", "p,p", change<[](Mask a) { return ~a; }>},
    {"mov.pred", "p,p", change<[](Mask a) { return a; }>},
};

}  // namespace

Instructions comparisons() { return {kInstructions, std::size(kInstructions)}; }

}  // namespace equifast::ptx
