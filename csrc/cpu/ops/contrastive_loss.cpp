// contrastive_loss: the mean of |⟨v_e, v_h⟩| over the samples and the pairs of different elements.
#include <torch/csrc/stable/library.h>

#include "common/vectors.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

using torch::stable::contiguous;

double value_of(const Tensor& scalar) {
  const Tensor as_double = torch::stable::to(scalar, ScalarType::Double);
  return *static_cast<const double*>(as_double.const_data_ptr());
}

// The loss, and the Gram matrices (B, E, E) that backward reads.
std::tuple<Tensor, Tensor> contrastive_loss(Tensor vectors, int64_t order, bool normalize) {
  const int64_t B = batch_of(vectors, order);
  const Tensor dense = contiguous(vectors);
  Tensor loss = empty(vectors, {}), gram = empty(vectors, {B, order, order}, accumulate_dtype(vectors));
  std::vector<double> partial(B);
  const ContrastiveArgs args = {.dtype = dtype_of(vectors, "vectors"),
                                .E = order,
                                .B = B,
                                .d = vectors.size(1),
                                .vectors = dense.const_data_ptr(),
                                .normalize = normalize,
                                .partial = partial.data(),
                                .gram = gram.mutable_data_ptr(),
                                .scale = 0,
                                .grad_vectors = nullptr};
  if (B > 0) run(cpu_kernels().contrastive_loss, args, score_tasks(B));
  double sum = 0;
  for (const double of_sample : partial) sum += of_sample;
  // Without samples this is NaN, as every mean in torch is.
  torch::stable::fill_(loss, sum / static_cast<double>(B * order * order));
  return {loss, gram};
}

Tensor contrastive_loss_backward(Tensor grad, Tensor vectors, Tensor gram, bool normalize) {
  STD_TORCH_CHECK(gram.dim() == 3, "gram: expected (B, E, E)");
  const int64_t order = gram.size(1), B = batch_of(vectors, order), d = vectors.size(1);
  check_gram(gram, vectors, B, order);
  const Tensor dense_vectors = contiguous(vectors), dense_gram = contiguous(gram);
  Tensor grad_vectors = empty(vectors, {order * B, d});
  if (grad_vectors.numel() == 0) return grad_vectors;
  const ContrastiveArgs args = {.dtype = dtype_of(vectors, "vectors"),
                                .E = order,
                                .B = B,
                                .d = d,
                                .vectors = dense_vectors.const_data_ptr(),
                                .normalize = normalize,
                                .partial = nullptr,
                                .gram = const_cast<void*>(dense_gram.const_data_ptr()),
                                .scale = value_of(grad) / static_cast<double>(B * order * order),
                                .grad_vectors = grad_vectors.mutable_data_ptr()};
  run(cpu_kernels().contrastive_loss_backward, args, score_tasks(B));
  return grad_vectors;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) {
  m.impl("contrastive_loss", TORCH_BOX(&contrastive_loss));
  m.impl("contrastive_loss_backward", TORCH_BOX(&contrastive_loss_backward));
}

}  // namespace equifast::cpu
