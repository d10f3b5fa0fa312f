// orbit_losses: scores and choice as in orbit_scores, the prior loss and the contrastive loss, together.
#include "cuda/runtime/library.h"
#include "cuda/runtime/score_plan.h"

namespace equifast::cuda {
namespace {

// Activations, probabilities, elements, the two losses, and the Gram matrices (B, E, E) that backward reads.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> orbit_losses(Tensor vectors, Tensor reference,
                                                                        std::optional<Tensor> target, int64_t order,
                                                                        double beta, double prior_beta, bool cosine,
                                                                        bool normalize) {
  const int64_t B = batch_of(vectors, order);
  check_reference(reference, vectors);
  check_target(target, B);
  const OnDeviceOf device(vectors);
  const Tensor dense_vectors = with_dense_rows(vectors), dense_reference = torch::stable::contiguous(reference);
  auto args = vector_args<ScoreArgs>(dense_vectors, order);
  set_scores(args, dense_reference, beta, cosine);
  set_prior(args, target, prior_beta);
  const ScalarType sum_dtype = accumulate_dtype(vectors);
  const auto [activations, probabilities, element] = new_scores(vectors, args);
  Tensor prior = empty(vectors, {}), contrastive = empty(vectors, {}),
         gram = empty(vectors, {B, order, order}, sum_dtype);
  if (B == 0) {
    fill_nan(prior);
    fill_nan(contrastive);
    return {activations, probabilities, element, prior, contrastive, gram};
  }
  Tensor partial_prior = empty(vectors, {B}, sum_dtype), partial_contrastive = empty(vectors, {B}, sum_dtype);
  args.normalize = normalize;
  args.gram = gram.mutable_data_ptr();
  args.partial_prior = partial_prior.mutable_data_ptr();
  args.partial_contrastive = partial_contrastive.mutable_data_ptr();
  args.prior = prior.mutable_data_ptr();
  args.contrastive = contrastive.mutable_data_ptr();
  launch_orbit_losses(args, device.stream);
  return {activations, probabilities, element, prior, contrastive, gram};
}

std::tuple<Tensor, Tensor> orbit_losses_backward(std::optional<Tensor> grad_activations,
                                                 std::optional<Tensor> grad_probabilities,
                                                 std::optional<Tensor> grad_prior,
                                                 std::optional<Tensor> grad_contrastive, Tensor vectors,
                                                 Tensor reference, std::optional<Tensor> target, Tensor activations,
                                                 Tensor probabilities, Tensor gram, double beta, double prior_beta,
                                                 bool cosine, bool normalize) {
  STD_TORCH_CHECK(probabilities.dim() == 2, "probabilities: expected (B, E)");
  const int64_t B = probabilities.size(0), order = probabilities.size(1);
  check_sizes(activations, {B, order}, vectors.scalar_type(), "activations");
  check_gram(gram, vectors, B, order);
  check_target(target, B);
  const OnDeviceOf device(vectors);
  const Tensor dense_activations = torch::stable::contiguous(activations), dense_gram = torch::stable::contiguous(gram);
  const auto grad_prior_loss = loss_gradient(grad_prior, vectors),
             grad_contrastive_loss = loss_gradient(grad_contrastive, vectors);
  return score_gradients(grad_activations, grad_probabilities, vectors, reference, probabilities, beta, cosine,
                         [&](ScoreGradArgs args, Stream stream) {
                           set_prior(args, target, prior_beta);
                           args.normalize = normalize;
                           args.activations = dense_activations.const_data_ptr();
                           args.gram = dense_gram.const_data_ptr();
                           args.grad_prior = data_of(grad_prior_loss);
                           args.grad_contrastive = data_of(grad_contrastive_loss);
                           launch_orbit_losses_backward(args, stream);
                         });
}

}  // namespace

EQUIFAST_REGISTER({"orbit_losses", TORCH_BOX(&orbit_losses)},
                  {"orbit_losses_backward", TORCH_BOX(&orbit_losses_backward)})

}  // namespace equifast::cuda
