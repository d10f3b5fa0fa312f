// orbit_logit_scores: a score of the logits of each member, softmax over the group and arg max.
#include "cuda/runtime/library.h"
#include "cuda/runtime/score_plan.h"

namespace equifast::cuda {
namespace {

using torch::stable::contiguous;

std::optional<Tensor> dense(const std::optional<Tensor>& t) { return t ? std::optional(contiguous(*t)) : t; }

// The arguments of both kernels. The rows of `logits` are dense, and `index` is contiguous.
LogitScoreArgs args_of(const Tensor& logits, const std::optional<Tensor>& index, LogitScore score, int64_t order,
                       double beta) {
  LogitScoreArgs args = {};
  args.dtype = dtype_of(logits, "logits");
  args.score = score;
  args.E = order;
  args.B = logits.size(0) / order;
  args.K = logits.size(1);
  args.logits = logits.const_data_ptr();
  args.row = logits.stride(0);
  args.index = static_cast<const int64_t*>(data_of(index));
  args.beta = beta;
  return args;
}

std::tuple<Tensor, Tensor, Tensor> orbit_logit_scores(Tensor logits, std::optional<Tensor> index, int64_t order,
                                                      std::string name, double beta) {
  const LogitScore score = logit_score_of(name);
  const int64_t B = check_logits(logits, index, order, score);
  const OnDeviceOf device(logits);
  const Tensor dense_logits = with_dense_rows(logits);
  const std::optional<Tensor> dense_index = dense(index);
  const ScalarType wide = accumulate_dtype(logits);
  Tensor activations = empty(logits, {B, order}, wide), probabilities = empty(logits, {B, order}, wide),
         element = empty(logits, {B}, ScalarType::Long);
  LogitScoreArgs args = args_of(dense_logits, dense_index, score, order, beta);
  args.activations = activations.mutable_data_ptr();
  args.probabilities = probabilities.mutable_data_ptr();
  args.element = static_cast<int64_t*>(element.mutable_data_ptr());
  if (B > 0) launch_orbit_logit_scores(args, device.stream);
  return {activations, probabilities, element};
}

Tensor orbit_logit_scores_backward(std::optional<Tensor> grad_activations, std::optional<Tensor> grad_probabilities,
                                   Tensor logits, std::optional<Tensor> index, Tensor probabilities, std::string name,
                                   double beta) {
  const LogitScore score = logit_score_of(name);
  const int64_t order =
      check_logit_gradients(grad_activations, grad_probabilities, logits, index, probabilities, score);
  const OnDeviceOf device(logits);
  const Tensor dense_logits = with_dense_rows(logits), dense_probabilities = contiguous(probabilities);
  const std::optional<Tensor> dense_index = dense(index);
  Tensor grad_logits = empty(logits, {logits.size(0), logits.size(1)});
  LogitScoreArgs args = args_of(dense_logits, dense_index, score, order, beta);
  args.probabilities = const_cast<void*>(dense_probabilities.const_data_ptr());
  args.grad_activations = gradient_of(grad_activations);
  args.grad_probabilities = gradient_of(grad_probabilities);
  args.grad_logits = grad_logits.mutable_data_ptr();
  if (args.B > 0) launch_orbit_logit_scores_backward(args, device.stream);
  return grad_logits;
}

}  // namespace

EQUIFAST_REGISTER({"orbit_logit_scores", TORCH_BOX(&orbit_logit_scores)},
                  {"orbit_logit_scores_backward", TORCH_BOX(&orbit_logit_scores_backward)})

}  // namespace equifast::cuda
