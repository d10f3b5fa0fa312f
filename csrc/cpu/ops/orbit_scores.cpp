// orbit_scores: similarity with the reference, softmax over the group and arg max.
#include <torch/csrc/stable/library.h>

#include "common/vectors.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

using torch::stable::contiguous;

std::tuple<Tensor, Tensor, Tensor> orbit_scores(Tensor vectors, Tensor reference, int64_t order, double beta,
                                                bool cosine) {
  const int64_t B = batch_of(vectors, order);
  check_reference(reference, vectors);
  const Tensor dense_vectors = contiguous(vectors), dense_reference = contiguous(reference);
  Tensor activations = empty(vectors, {B, order}), probabilities = empty(vectors, {B, order}),
         element = empty(vectors, {B}, ScalarType::Long);
  if (B == 0) return {activations, probabilities, element};
  const ScoreArgs args = {.dtype = dtype_of(vectors, "vectors"),
                          .E = order,
                          .B = B,
                          .d = vectors.size(1),
                          .vectors = dense_vectors.const_data_ptr(),
                          .reference = dense_reference.const_data_ptr(),
                          .beta = beta,
                          .cosine = cosine,
                          .activations = activations.mutable_data_ptr(),
                          .probabilities = probabilities.mutable_data_ptr(),
                          .element = static_cast<int64_t*>(element.mutable_data_ptr())};
  run(cpu_kernels().orbit_scores, args, score_tasks(B));
  return {activations, probabilities, element};
}

std::tuple<Tensor, Tensor> orbit_scores_backward(std::optional<Tensor> grad_activations,
                                                 std::optional<Tensor> grad_probabilities, Tensor vectors,
                                                 Tensor reference, Tensor probabilities, double beta, bool cosine) {
  const int64_t order = check_score_gradients(grad_activations, grad_probabilities, vectors, reference, probabilities);
  const int64_t B = batch_of(vectors, order), d = vectors.size(1), tasks = score_tasks(B);
  const Tensor dense_vectors = contiguous(vectors), dense_reference = contiguous(reference),
               dense_probabilities = contiguous(probabilities);
  if (grad_activations) grad_activations = contiguous(*grad_activations);
  if (grad_probabilities) grad_probabilities = contiguous(*grad_probabilities);
  Tensor grad_vectors = empty(vectors, {order * B, d}), partial = empty(vectors, {tasks, d}, ScalarType::Double);
  const auto* partial_sums = static_cast<const double*>(partial.const_data_ptr());
  const ScoreGradArgs args = {.dtype = dtype_of(vectors, "vectors"),
                              .E = order,
                              .B = B,
                              .d = d,
                              .vectors = dense_vectors.const_data_ptr(),
                              .reference = dense_reference.const_data_ptr(),
                              .probabilities = dense_probabilities.const_data_ptr(),
                              .beta = beta,
                              .cosine = cosine,
                              .grad_activations = data_of(grad_activations),
                              .grad_probabilities = data_of(grad_probabilities),
                              .grad_vectors = grad_vectors.mutable_data_ptr(),
                              .grad_reference = static_cast<double*>(partial.mutable_data_ptr())};
  if (B > 0) run(cpu_kernels().orbit_scores_backward, args, tasks);

  Tensor grad_reference = zeros(vectors, {d}, ScalarType::Double);
  auto* sum = static_cast<double*>(grad_reference.mutable_data_ptr());
  for (int64_t task = 0; task < tasks; ++task)
    for (int64_t k = 0; k < d; ++k) sum[k] += partial_sums[task * d + k];
  return {grad_vectors, torch::stable::to(grad_reference, reference.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) {
  m.impl("orbit_scores", TORCH_BOX(&orbit_scores));
  m.impl("orbit_scores_backward", TORCH_BOX(&orbit_scores_backward));
}

}  // namespace equifast::cpu
