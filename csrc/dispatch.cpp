// Picks the widest instruction set that this machine runs, once.
#include "cpu/kernels.h"
#include "cpu_isa.h"

namespace equifast::cpu {

#define EQUIFAST_DECLARE_KERNELS(isa)                                        \
  namespace isa {                                                            \
  void orbit(const WarpArgs&, int64_t, int64_t);                             \
  void orbit_adjoint(const WarpArgs&, int64_t, int64_t);                     \
  void act(const WarpArgs&, int64_t, int64_t);                               \
  void act_adjoint(const WarpArgs&, int64_t, int64_t);                       \
  void orbit_average(const WarpArgs&, int64_t, int64_t);                     \
  void orbit_average_adjoint(const WarpArgs&, int64_t, int64_t);             \
  void orbit_inner(const WarpArgs&, int64_t, int64_t);                       \
  void orbit_conv2d(const OrbitConv2dArgs&, int64_t, int64_t);               \
  void footprint(const Warp&, const Matrix&, const Footprint&);              \
  void orbit_scores(const ScoreArgs&, int64_t, int64_t);                     \
  void orbit_scores_backward(const ScoreGradArgs&, int64_t, int64_t);        \
  void contrastive_loss(const ContrastiveArgs&, int64_t, int64_t);           \
  void contrastive_loss_backward(const ContrastiveArgs&, int64_t, int64_t);  \
  constexpr Kernels kKernels = {orbit,                                       \
                                orbit_adjoint,                               \
                                act,                                         \
                                act_adjoint,                                 \
                                orbit_average,                               \
                                orbit_average_adjoint,                       \
                                orbit_inner,                                 \
                                orbit_conv2d,                                \
                                footprint,                                   \
                                orbit_scores,                                \
                                orbit_scores_backward,                       \
                                contrastive_loss,                            \
                                contrastive_loss_backward};                  \
  }

EQUIFAST_DECLARE_KERNELS(baseline)
#ifdef EQUIFAST_HAS_AVX2
EQUIFAST_DECLARE_KERNELS(avx2)
#endif
#ifdef EQUIFAST_HAS_AVX512
EQUIFAST_DECLARE_KERNELS(avx512)
#endif

const Kernels& cpu_kernels() {
  switch (best_isa()) {
#ifdef EQUIFAST_HAS_AVX512
    case Isa::avx512: return avx512::kKernels;
#endif
#ifdef EQUIFAST_HAS_AVX2
    case Isa::avx2: return avx2::kKernels;
#endif
    default: return baseline::kKernels;
  }
}

}  // namespace equifast::cpu
