// From the arguments of a torch op on vectors to what the kernels take: what orbit_scores, contrastive_loss and
// orbit_losses have in common.
#pragma once

#include <limits>

#include "common/vectors.h"
#include "cuda/kernels/scores.h"
#include "cuda/runtime/images.h"

namespace equifast::cuda {

// The vectors themselves if the values of a row are neighbours in memory, wherever the rows lie; else a copy.
inline Tensor with_dense_rows(const Tensor& vectors) {
  return vectors.size(1) > 1 && vectors.stride(1) != 1 ? torch::stable::contiguous(vectors) : vectors;
}

// The arguments that ScoreArgs and ScoreGradArgs share, from vectors with dense rows.
template <class Args>
Args vector_args(const Tensor& vectors, int64_t order) {
  Args args = {};
  args.dtype = dtype_of(vectors, "vectors");
  args.E = order;
  args.B = vectors.size(0) / order;
  args.d = vectors.size(1);
  args.vectors = vectors.const_data_ptr();
  args.row = args.d > 0 ? vectors.stride(0) : 0;
  return args;
}

inline void set_scores(VectorArgs& args, const Tensor& reference, double beta, bool cosine) {
  args.reference = reference.const_data_ptr();
  args.beta = beta;
  args.cosine = cosine;
}

// Without a target, every sample should choose the identity.
inline void set_prior(VectorArgs& args, const std::optional<Tensor>& target, double prior_beta) {
  if (target) {
    args.target = static_cast<const int64_t*>(target->const_data_ptr());
    args.target_step = target->stride(0);
  }
  args.prior_beta = prior_beta;
}

inline void check_target(const std::optional<Tensor>& target, int64_t batch) {
  if (target) check_sizes(*target, {batch}, ScalarType::Long, "target", "int64");
}

// Activations, probabilities and elements, for a kernel to write.
inline std::tuple<Tensor, Tensor, Tensor> new_scores(const Tensor& vectors, ScoreArgs& args) {
  Tensor activations = empty(vectors, {args.B, args.E}), probabilities = empty(vectors, {args.B, args.E}),
         element = empty(vectors, {args.B}, ScalarType::Long);
  args.activations = activations.mutable_data_ptr();
  args.probabilities = probabilities.mutable_data_ptr();
  args.element = static_cast<int64_t*>(element.mutable_data_ptr());
  return {activations, probabilities, element};
}

// The gradient of the vectors, for a kernel to write.
inline Tensor new_gradient(const Tensor& vectors, ScoreGradArgs& args) {
  Tensor out = empty(vectors, {args.E * args.B, args.d});
  args.grad_vectors = out.mutable_data_ptr();
  return out;
}

inline Gradient gradient_of(const std::optional<Tensor>& grad) {
  return grad ? Gradient{grad->const_data_ptr(), grad->stride(0), grad->stride(1)} : Gradient{};
}

// The gradient of a loss, (), in the dtype that the kernels read.
inline std::optional<Tensor> loss_gradient(const std::optional<Tensor>& grad, const Tensor& vectors) {
  if (!grad || grad->scalar_type() == vectors.scalar_type()) return grad;
  return torch::stable::to(*grad, vectors.scalar_type());
}

// The gradients of vectors and reference. Calls launch(args, stream) with arguments that lack only what belongs to
// losses.
template <class F>
std::tuple<Tensor, Tensor> score_gradients(const std::optional<Tensor>& grad_activations,
                                           const std::optional<Tensor>& grad_probabilities, const Tensor& vectors,
                                           const Tensor& reference, const Tensor& probabilities, double beta,
                                           bool cosine, F launch) {
  const int64_t order = check_score_gradients(grad_activations, grad_probabilities, vectors, reference, probabilities);
  const OnDeviceOf device(vectors);
  const Tensor dense_vectors = with_dense_rows(vectors), dense_reference = torch::stable::contiguous(reference),
               dense_probabilities = torch::stable::contiguous(probabilities);
  auto args = vector_args<ScoreGradArgs>(dense_vectors, order);
  set_scores(args, dense_reference, beta, cosine);
  args.probabilities = dense_probabilities.const_data_ptr();
  args.grad_activations = gradient_of(grad_activations);
  args.grad_probabilities = gradient_of(grad_probabilities);
  Tensor grad_vectors = new_gradient(vectors, args);
  if (args.B == 0) return {grad_vectors, zeros(reference, {args.d})};
  Tensor grad_reference = empty(reference, {args.d}),
         partial = empty(vectors, {grad_blocks(args.B), args.d}, accumulate_dtype(vectors));
  args.grad_reference = grad_reference.mutable_data_ptr();
  args.partial = partial.mutable_data_ptr();
  launch(args, device.stream);
  return {grad_vectors, grad_reference};
}

// The mean over no samples is NaN, as every such mean in torch.
inline void fill_nan(Tensor& loss) { torch::stable::fill_(loss, std::numeric_limits<double>::quiet_NaN()); }

}  // namespace equifast::cuda
