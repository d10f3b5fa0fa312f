// contrastive_loss: the mean of |⟨v_e, v_h⟩| over the samples and the pairs of different elements.
#include "cuda/runtime/library.h"
#include "cuda/runtime/score_plan.h"

namespace equifast::cuda {
namespace {

// The loss, and the Gram matrices (B, E, E) that backward reads.
std::tuple<Tensor, Tensor> contrastive_loss(Tensor vectors, int64_t order, bool normalize) {
  const int64_t B = batch_of(vectors, order);
  const OnDeviceOf device(vectors);
  const Tensor dense_vectors = with_dense_rows(vectors);
  auto args = vector_args<ScoreArgs>(dense_vectors, order);
  const ScalarType sum_dtype = accumulate_dtype(vectors);
  Tensor loss = empty(vectors, {}), gram = empty(vectors, {B, order, order}, sum_dtype);
  if (B == 0) return fill_nan(loss), std::tuple(loss, gram);
  Tensor partial = empty(vectors, {B}, sum_dtype);
  args.normalize = normalize;
  args.gram = gram.mutable_data_ptr();
  args.partial_contrastive = partial.mutable_data_ptr();
  args.contrastive = loss.mutable_data_ptr();
  launch_contrastive_loss(args, device.stream);
  return {loss, gram};
}

Tensor contrastive_loss_backward(Tensor grad, Tensor vectors, Tensor gram, bool normalize) {
  STD_TORCH_CHECK(gram.dim() == 3, "gram: expected (B, E, E)");
  const int64_t order = gram.size(1), B = batch_of(vectors, order);
  check_gram(gram, vectors, B, order);
  const OnDeviceOf device(vectors);
  const Tensor dense_vectors = with_dense_rows(vectors), dense_gram = torch::stable::contiguous(gram);
  const auto grad_loss = loss_gradient(grad, vectors);
  auto args = vector_args<ScoreGradArgs>(dense_vectors, order);
  args.normalize = normalize;
  args.grad_contrastive = data_of(grad_loss);
  args.gram = dense_gram.const_data_ptr();
  Tensor grad_vectors = new_gradient(vectors, args);
  if (B > 0) launch_contrastive_loss_backward(args, device.stream);
  return grad_vectors;
}

}  // namespace

EQUIFAST_REGISTER({"contrastive_loss", TORCH_BOX(&contrastive_loss)},
                  {"contrastive_loss_backward", TORCH_BOX(&contrastive_loss_backward)})

}  // namespace equifast::cuda
