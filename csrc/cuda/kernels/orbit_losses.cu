// orbit_losses: scores, choice, prior and contrastive loss from one reading of the vectors, and one pass back.
#include "cuda/device/vectors_backward.cuh"
#include "cuda/device/vectors_forward.cuh"

namespace equifast::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kMaxThreads, kBlocks<T>) orbit_losses_kernel(const __grid_constant__ ScoreArgs a) {
  forward<T, true, true>(a);
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads, kBlocks<T>)
    orbit_losses_backward_kernel(const __grid_constant__ ScoreGradArgs a) {
  backward<T, true, true>(a);
}

}  // namespace

void launch_orbit_losses(const ScoreArgs& a, Stream stream) {
  visit(a.dtype, [&]<class T>(T) { launch_forward<T>("orbit_losses", orbit_losses_kernel<T>, a, true, stream); });
  mean_loss(a, a.partial_contrastive, a.E * a.E, a.contrastive, stream);
  mean_loss(a, a.partial_prior, 1, a.prior, stream);
}

void launch_orbit_losses_backward(const ScoreGradArgs& a, Stream stream) {
  visit(a.dtype,
        [&]<class T>(T) { launch_backward<T>("orbit_losses_backward", orbit_losses_backward_kernel<T>, a, stream); });
  sum_reference_gradient(a, stream);
}

}  // namespace equifast::cuda
