// Compares csrc/cpu/kernels/half.h with the F16C instructions of this CPU. Prints the number of halves and of floats
// that it compared, or the first that differs. With an argument, it tries every float there is.
#include <immintrin.h>

#include <cstdio>
#include <initializer_list>

#include "cpu/kernels/half.h"

using namespace equifast::cpu;

__attribute__((target("f16c"))) float widened(uint16_t half) { return _cvtsh_ss(half); }
__attribute__((target("f16c"))) uint16_t narrowed(float v) { return _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT); }

bool differs(uint32_t bits) {
  const float v = float_of(bits);
  if (half_of_float(v) == narrowed(v)) return false;
  std::printf("float %08x: %04x, not %04x\n", bits, half_of_float(v), narrowed(v));
  return true;
}

int main(int arguments, char**) {
  if (!__builtin_cpu_supports("f16c")) return 77;
  for (const bool flush : {false, true}) {
    // Flush subnormal results and operands to zero, as torch.set_flush_denormal does.
    _mm_setcsr(flush ? _mm_getcsr() | 0x8040 : _mm_getcsr());
    for (uint32_t half = 0; half < 0x10000; ++half) {
      if (bits_of(float_of_half(half)) == bits_of(widened(half))) continue;
      std::printf("half %04x: %08x, not %08x\n", half, bits_of(float_of_half(half)), bits_of(widened(half)));
      return 1;
    }
    // Of the lowest 12 bits, rounding only asks whether they are zero.
    for (uint64_t high = 0; high < 0x100000; ++high)
      for (const uint32_t low : {0x000u, 0x001u, 0x800u, 0xFFFu})
        if (differs(high << 12 | low)) return 1;
    for (uint64_t bits = 0; arguments > 1 && bits < 0x100000000; ++bits)
      if (differs(bits)) return 1;
  }
  std::printf("%d %d\n", 0x10000, 4 * 0x100000);
}
