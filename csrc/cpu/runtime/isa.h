// Which compiled variant of the CPU kernels (csrc/cpu/kernels) runs. Only code that is compiled for the oldest CPUs of
// a platform may include this.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef EQUIFAST_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace equifast {

// "amx" is the variant of AVX-512, and in it the kernels that multiply bfloat16 by tiles.
enum class Isa { baseline, avx2, avx512, amx };

inline const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::amx: return "amx";
    default: return "baseline";
  }
}

namespace detail {

// Whether this CPU has AMX, and the operating system lets this process use it. Linux wants to be asked.
inline bool may_use_amx() {
#ifdef EQUIFAST_HAS_AMX
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  const bool there = __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("avx512bf16");
  return there && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace detail

// The built variants that this CPU and operating system can run, slowest first.
inline std::vector<Isa> supported_isas() {
  std::vector<Isa> isas = {Isa::baseline};
#ifdef EQUIFAST_HAS_AVX2
  if (__builtin_cpu_supports("x86-64-v3")) isas.push_back(Isa::avx2);
#endif
#ifdef EQUIFAST_HAS_AVX512
  if (__builtin_cpu_supports("x86-64-v4")) isas.push_back(Isa::avx512);
  if (isas.back() == Isa::avx512 && detail::may_use_amx()) isas.push_back(Isa::amx);
#endif
  return isas;
}

namespace detail {

inline Isa choose_isa() {
  const std::vector<Isa> isas = supported_isas();
  const char* forced = std::getenv("EQUIFAST_CPU_CAPABILITY");
  if (forced == nullptr || *forced == '\0') return isas.back();
  std::string choices;
  for (const Isa isa : isas) {
    if (std::string(forced) == isa_name(isa)) return isa;
    choices += (choices.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw std::runtime_error("EQUIFAST_CPU_CAPABILITY: expected one of " + choices + " on this machine, got '" + forced +
                           "'");
}

}  // namespace detail

// The variant in use: the widest that is supported, or the one that EQUIFAST_CPU_CAPABILITY names. A library reads the
// variable once.
inline Isa best_isa() {
  static const Isa isa = detail::choose_isa();
  return isa;
}

}  // namespace equifast
