// orbit_scores: similarity with the reference, softmax over the group and arg max.
#include "cuda/runtime/library.h"
#include "cuda/runtime/score_plan.h"

namespace equifast::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor> orbit_scores(Tensor vectors, Tensor reference, int64_t order, double beta,
                                                bool cosine) {
  batch_of(vectors, order);
  check_reference(reference, vectors);
  const OnDeviceOf device(vectors);
  const Tensor dense_vectors = with_dense_rows(vectors), dense_reference = torch::stable::contiguous(reference);
  auto args = vector_args<ScoreArgs>(dense_vectors, order);
  set_scores(args, dense_reference, beta, cosine);
  const auto scores = new_scores(vectors, args);
  if (args.B > 0) launch_orbit_scores(args, device.stream);
  return scores;
}

std::tuple<Tensor, Tensor> orbit_scores_backward(std::optional<Tensor> grad_activations,
                                                 std::optional<Tensor> grad_probabilities, Tensor vectors,
                                                 Tensor reference, Tensor probabilities, double beta, bool cosine) {
  return score_gradients(grad_activations, grad_probabilities, vectors, reference, probabilities, beta, cosine,
                         launch_orbit_scores_backward);
}

}  // namespace

EQUIFAST_REGISTER({"orbit_scores", TORCH_BOX(&orbit_scores)},
                  {"orbit_scores_backward", TORCH_BOX(&orbit_scores_backward)})

}  // namespace equifast::cuda
