// Picks the widest instruction set that this machine runs. It does so once.
#include "cpu/kernels/kernels.h"
#include "cpu/runtime/isa.h"

namespace equifast::cpu {

#define EQUIFAST_DECLARE(name, Args) void name(const Args&, int64_t, int64_t);
#define EQUIFAST_NAME(name, Args) name,
#define EQUIFAST_ISA_KERNELS(isa)                                     \
  namespace isa {                                                     \
  EQUIFAST_CPU_KERNELS(EQUIFAST_DECLARE)                              \
  constexpr Kernels kKernels = {EQUIFAST_CPU_KERNELS(EQUIFAST_NAME)}; \
  }

EQUIFAST_ISA_KERNELS(baseline)
#ifdef EQUIFAST_HAS_AVX2
EQUIFAST_ISA_KERNELS(avx2)
#endif
#ifdef EQUIFAST_HAS_AVX512
EQUIFAST_ISA_KERNELS(avx512)
#endif

const Kernels& cpu_kernels() {
  switch (best_isa()) {
#ifdef EQUIFAST_HAS_AVX512
    case Isa::amx:
    case Isa::avx512: return avx512::kKernels;
#endif
#ifdef EQUIFAST_HAS_AVX2
    case Isa::avx2: return avx2::kKernels;
#endif
    default: return baseline::kKernels;
  }
}

}  // namespace equifast::cpu
