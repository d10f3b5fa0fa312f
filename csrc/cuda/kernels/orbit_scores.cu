// orbit_scores: similarity with the reference, softmax over the group and arg max, and their gradients.
#include "cuda/device/vectors_backward.cuh"
#include "cuda/device/vectors_forward.cuh"

namespace equifast::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kMaxThreads, kBlocks<T>) orbit_scores_kernel(const __grid_constant__ ScoreArgs a) {
  forward<T, true, false>(a);
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads, kBlocks<T>)
    orbit_scores_backward_kernel(const __grid_constant__ ScoreGradArgs a) {
  backward<T, true, false>(a);
}

}  // namespace

void launch_orbit_scores(const ScoreArgs& a, Stream stream) {
  visit(a.dtype, [&]<class T>(T) { launch_forward<T>("orbit_scores", orbit_scores_kernel<T>, a, false, stream); });
}

void launch_orbit_scores_backward(const ScoreGradArgs& a, Stream stream) {
  visit(a.dtype,
        [&]<class T>(T) { launch_backward<T>("orbit_scores_backward", orbit_scores_backward_kernel<T>, a, stream); });
  sum_reference_gradient(a, stream);
}

}  // namespace equifast::cuda
