// contrastive_loss: the inner products of each sample's vectors, and their gradient.
#include "cuda/device/vectors_backward.cuh"
#include "cuda/device/vectors_forward.cuh"

namespace equifast::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kMaxThreads, kBlocks<T>)
    contrastive_loss_kernel(const __grid_constant__ ScoreArgs a) {
  forward<T, false, true>(a);
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads, kBlocks<T>)
    contrastive_loss_backward_kernel(const __grid_constant__ ScoreGradArgs a) {
  backward<T, false, true>(a);
}

}  // namespace

void launch_contrastive_loss(const ScoreArgs& a, Stream stream) {
  visit(a.dtype,
        [&]<class T>(T) { launch_forward<T>("contrastive_loss", contrastive_loss_kernel<T>, a, true, stream); });
  mean_loss(a, a.partial_contrastive, a.E * a.E, a.contrastive, stream);
}

void launch_contrastive_loss_backward(const ScoreGradArgs& a, Stream stream) {
  visit(a.dtype, [&]<class T>(T) {
    launch_backward<T>("contrastive_loss_backward", contrastive_loss_backward_kernel<T>, a, stream);
  });
}

}  // namespace equifast::cuda
