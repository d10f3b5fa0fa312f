// Which compiled variant of the CPU kernels (csrc/cpu/kernels) runs. Only code that is compiled for the oldest CPUs of
// a platform may include this.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace equifast {

enum class Isa { baseline, avx2, avx512 };

inline const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    default: return "baseline";
  }
}

// The built variants that this CPU and operating system can run, slowest first.
inline std::vector<Isa> supported_isas() {
  std::vector<Isa> isas = {Isa::baseline};
#ifdef EQUIFAST_HAS_AVX2
  if (__builtin_cpu_supports("x86-64-v3")) isas.push_back(Isa::avx2);
#endif
#ifdef EQUIFAST_HAS_AVX512
  if (__builtin_cpu_supports("x86-64-v4")) isas.push_back(Isa::avx512);
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
