#include "cpu/ops/score_ops.h"

#include <torch/headeronly/util/Exception.h>

#include <limits>

#include "cpu/runtime/resample_plan.h"

namespace equifast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::contiguous;

int64_t tasks_of(int64_t batch) { return (batch + cpu::kScoreSamples - 1) / cpu::kScoreSamples; }

int64_t batch_of(const Tensor& vectors, int64_t order) {
  STD_TORCH_CHECK(vectors.dim() == 2 && order > 0 && vectors.size(0) % order == 0,
                  "vectors: expected (E·B, d) with E = ", order);
  return vectors.size(0) / order;
}

Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes, std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_empty(like, {sizes.begin(), sizes.size()}, dtype);
}

void store(const Tensor& out, double value) { torch::stable::fill_(out, value); }

double load_scalar(const Tensor& t) {
  const Tensor wide = torch::stable::to(t, ScalarType::Double);
  return *static_cast<const double*>(wide.const_data_ptr());
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> orbit_scores(Tensor vectors, Tensor reference, int64_t order, double beta,
                                                bool cosine) {
  const int64_t B = batch_of(vectors, order), d = vectors.size(1);
  STD_TORCH_CHECK(reference.dim() == 1 && reference.size(0) == d, "reference: expected (", d, ",)");
  STD_TORCH_CHECK(reference.scalar_type() == vectors.scalar_type(), "reference: expected the dtype of vectors");
  const Tensor v = contiguous(vectors), r = contiguous(reference);
  Tensor activations = empty(v, {B, order}), probabilities = empty(v, {B, order}),
         element = empty(v, {B}, ScalarType::Long);
  if (B == 0) return {activations, probabilities, element};
  const cpu::ScoreArgs args = {dtype_of(v, "vectors"),
                               order,
                               B,
                               d,
                               v.const_data_ptr(),
                               r.const_data_ptr(),
                               beta,
                               cosine,
                               activations.mutable_data_ptr(),
                               probabilities.mutable_data_ptr(),
                               static_cast<int64_t*>(element.mutable_data_ptr())};
  run(cpu::cpu_kernels().orbit_scores, args, tasks_of(B));
  return {activations, probabilities, element};
}

std::tuple<Tensor, Tensor> orbit_scores_backward(std::optional<Tensor> grad_activations,
                                                 std::optional<Tensor> grad_probabilities, Tensor vectors,
                                                 Tensor reference, Tensor probabilities, double beta, bool cosine) {
  STD_TORCH_CHECK(probabilities.dim() == 2, "probabilities: expected (B, E)");
  const int64_t order = probabilities.size(1), B = batch_of(vectors, order), d = vectors.size(1), tasks = tasks_of(B);
  STD_TORCH_CHECK(probabilities.size(0) == B, "probabilities: expected (", B, ", ", order, ")");
  STD_TORCH_CHECK(reference.dim() == 1 && reference.size(0) == d, "reference: expected (", d, ",)");
  for (const Tensor& t : {grad_activations.value_or(probabilities), grad_probabilities.value_or(probabilities)})
    STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == B && t.size(1) == order && t.scalar_type() == vectors.scalar_type(),
                    "gradients: expected (", B, ", ", order, ") of the dtype of vectors");
  for (const Tensor& t : {reference, probabilities})
    STD_TORCH_CHECK(t.scalar_type() == vectors.scalar_type(), "expected the dtype of vectors throughout");
  const Tensor v = contiguous(vectors), r = contiguous(reference), p = contiguous(probabilities);
  if (grad_activations) grad_activations = contiguous(*grad_activations);
  if (grad_probabilities) grad_probabilities = contiguous(*grad_probabilities);
  Tensor grad_vectors = empty(v, {order * B, d}), partial = empty(v, {tasks, d}, ScalarType::Double);
  const cpu::ScoreGradArgs args = {dtype_of(v, "vectors"),
                                   order,
                                   B,
                                   d,
                                   v.const_data_ptr(),
                                   r.const_data_ptr(),
                                   p.const_data_ptr(),
                                   beta,
                                   cosine,
                                   grad_activations ? grad_activations->const_data_ptr() : nullptr,
                                   grad_probabilities ? grad_probabilities->const_data_ptr() : nullptr,
                                   grad_vectors.mutable_data_ptr(),
                                   static_cast<double*>(partial.mutable_data_ptr())};
  if (B > 0) run(cpu::cpu_kernels().orbit_scores_backward, args, tasks);

  Tensor total = torch::stable::new_zeros(v, {&d, 1}, ScalarType::Double);
  auto* sum = static_cast<double*>(total.mutable_data_ptr());
  for (int64_t t = 0; t < tasks; ++t)
    for (int64_t k = 0; k < d; ++k) sum[k] += args.grad_reference[t * d + k];
  return {grad_vectors, torch::stable::to(total, r.scalar_type())};
}

std::tuple<Tensor, Tensor> contrastive_loss(Tensor vectors, int64_t order, bool normalize) {
  const int64_t B = batch_of(vectors, order), d = vectors.size(1);
  const Tensor v = contiguous(vectors);
  const auto wide = v.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor loss = torch::stable::new_empty(v, {}), gram = empty(v, {B, order, order}, wide);
  std::vector<double> partial(B);
  const cpu::ContrastiveArgs args = {
      dtype_of(v, "vectors"),  order, B,      d, v.const_data_ptr(), normalize, partial.data(),
      gram.mutable_data_ptr(), 0,     nullptr};
  if (B > 0) run(cpu::cpu_kernels().contrastive_loss, args, tasks_of(B));
  double sum = 0;
  for (const double s : partial) sum += s;
  store(loss, sum / static_cast<double>(B * order * order));  // of nothing, NaN: as every mean in torch
  return {loss, gram};
}

Tensor contrastive_loss_backward(Tensor grad, Tensor vectors, Tensor gram, bool normalize) {
  STD_TORCH_CHECK(gram.dim() == 3, "gram: expected (B, E, E)");
  const int64_t order = gram.size(1), B = batch_of(vectors, order), d = vectors.size(1);
  STD_TORCH_CHECK(gram.size(0) == B && gram.size(2) == order, "gram: expected (", B, ", ", order, ", ", order, ")");
  const auto wide = vectors.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(gram.scalar_type() == wide, "gram: expected the accumulate type of vectors");
  const Tensor v = contiguous(vectors), g = contiguous(gram);
  Tensor out = empty(v, {order * B, d});
  if (B == 0) return out;
  const double scale = load_scalar(grad) / static_cast<double>(B * order * order);
  const cpu::ContrastiveArgs args = {dtype_of(v, "vectors"),
                                     order,
                                     B,
                                     d,
                                     v.const_data_ptr(),
                                     normalize,
                                     nullptr,
                                     const_cast<void*>(g.const_data_ptr()),
                                     scale,
                                     out.mutable_data_ptr()};
  run(cpu::cpu_kernels().contrastive_loss_backward, args, tasks_of(B));
  return out;
}

}  // namespace equifast
