#include "cuda/ops/score_ops.h"

#include <limits>

#include "cuda/kernels/scores.h"

namespace equifast::cuda {
namespace {

using torch::stable::contiguous;

int64_t batch_of(const Tensor& vectors, int64_t order) {
  STD_TORCH_CHECK(vectors.dim() == 2 && order > 0 && vectors.size(0) % order == 0,
                  "vectors: expected (E·B, d) with E = ", order);
  return vectors.size(0) / order;
}

void check_sizes(const Tensor& t, std::initializer_list<int64_t> sizes, ScalarType dtype, const char* name) {
  bool same = t.dim() == static_cast<int64_t>(sizes.size()) && t.scalar_type() == dtype;
  int64_t i = 0;
  for (const int64_t size : sizes) same = same && t.size(i++) == size;
  STD_TORCH_CHECK(same, name, ": not of the shape and the dtype that go with vectors");
}

void check_target(const std::optional<Tensor>& target, int64_t B) {
  if (target) check_sizes(*target, {B}, ScalarType::Long, "target");
}

// The same vectors with dense rows, which may lie anywhere.
Tensor dense_rows(const Tensor& vectors) {
  return vectors.size(1) > 1 && vectors.stride(1) != 1 ? contiguous(vectors) : vectors;
}

// A gradient (), in the dtype that the kernels read.
std::optional<Tensor> scalar(const std::optional<Tensor>& grad, const Tensor& like) {
  if (!grad || grad->scalar_type() == like.scalar_type()) return grad;
  return torch::stable::to(*grad, like.scalar_type());
}

Gradient gradient(const std::optional<Tensor>& t) {
  return t ? Gradient{t->const_data_ptr(), t->stride(0), t->stride(1)} : Gradient{};
}

void fill_nan(Tensor& t) { torch::stable::fill_(t, std::numeric_limits<double>::quiet_NaN()); }

// What the ops have in common of ScoreArgs and of ScoreGradArgs.
template <class Args>
Args args_of(const Tensor& v, int64_t order) {
  Args a = {};
  a.dtype = dtype_of(v, "vectors");
  a.E = order;
  a.B = v.size(0) / order;
  a.d = v.size(1);
  a.vectors = v.const_data_ptr();
  a.row = a.d > 0 ? v.stride(0) : 0;
  return a;
}

void set_scores(VectorArgs& a, const Tensor& reference, double beta, bool cosine) {
  a.reference = reference.const_data_ptr();
  a.beta = beta;
  a.cosine = cosine;
}

void set_target(VectorArgs& a, const std::optional<Tensor>& target, double prior_beta) {
  if (target) {
    a.target = static_cast<const int64_t*>(target->const_data_ptr());
    a.target_step = target->stride(0);
  }
  a.prior_beta = prior_beta;
}

// Activations, probabilities and element, to be written.
std::tuple<Tensor, Tensor, Tensor> new_scores(const Tensor& v, ScoreArgs& a) {
  Tensor activations = empty(v, {a.B, a.E}), probabilities = empty(v, {a.B, a.E}),
         element = empty(v, {a.B}, ScalarType::Long);
  a.activations = activations.mutable_data_ptr();
  a.probabilities = probabilities.mutable_data_ptr();
  a.element = static_cast<int64_t*>(element.mutable_data_ptr());
  return {activations, probabilities, element};
}

Tensor new_gradient(const Tensor& v, ScoreGradArgs& a) {
  Tensor out = empty(v, {a.E * a.B, a.d});
  a.grad_vectors = out.mutable_data_ptr();
  return out;
}

// Both gradients of what has scores: `run` gets the arguments complete.
template <class F>
std::tuple<Tensor, Tensor> score_gradients(const std::optional<Tensor>& grad_activations,
                                           const std::optional<Tensor>& grad_probabilities, const Tensor& vectors,
                                           const Tensor& reference, const Tensor& probabilities, double beta,
                                           bool cosine, F run) {
  STD_TORCH_CHECK(probabilities.dim() == 2, "probabilities: expected (B, E)");
  const int64_t order = probabilities.size(1), B = batch_of(vectors, order), d = vectors.size(1);
  const ScalarType dtype = vectors.scalar_type();
  check_sizes(probabilities, {B, order}, dtype, "probabilities");
  check_sizes(reference, {d}, dtype, "reference");
  if (grad_activations) check_sizes(*grad_activations, {B, order}, dtype, "grad_activations");
  if (grad_probabilities) check_sizes(*grad_probabilities, {B, order}, dtype, "grad_probabilities");
  const OnDeviceOf on(vectors);
  const Tensor v = dense_rows(vectors), r = contiguous(reference), p = contiguous(probabilities);
  auto a = args_of<ScoreGradArgs>(v, order);
  set_scores(a, r, beta, cosine);
  a.probabilities = p.const_data_ptr();
  a.grad_activations = gradient(grad_activations);
  a.grad_probabilities = gradient(grad_probabilities);
  Tensor grad_vectors = new_gradient(v, a);
  if (B == 0) return {grad_vectors, torch::stable::new_zeros(r, {&d, 1})};
  Tensor grad_reference = empty(r, {d}), partial = empty(v, {grad_blocks(B), d}, wide(v));
  a.grad_reference = grad_reference.mutable_data_ptr();
  a.partial = partial.mutable_data_ptr();
  run(a, on.stream);
  return {grad_vectors, grad_reference};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> orbit_scores(Tensor vectors, Tensor reference, int64_t order, double beta,
                                                bool cosine) {
  batch_of(vectors, order);
  check_sizes(reference, {vectors.size(1)}, vectors.scalar_type(), "reference");
  const OnDeviceOf on(vectors);
  const Tensor v = dense_rows(vectors), r = contiguous(reference);
  auto a = args_of<ScoreArgs>(v, order);
  set_scores(a, r, beta, cosine);
  const auto out = new_scores(v, a);
  if (a.B > 0) orbit_scores(a, on.stream);
  return out;
}

std::tuple<Tensor, Tensor> orbit_scores_backward(std::optional<Tensor> grad_activations,
                                                 std::optional<Tensor> grad_probabilities, Tensor vectors,
                                                 Tensor reference, Tensor probabilities, double beta, bool cosine) {
  return score_gradients(grad_activations, grad_probabilities, vectors, reference, probabilities, beta, cosine,
                         [](const ScoreGradArgs& a, Stream stream) { orbit_scores_backward(a, stream); });
}

std::tuple<Tensor, Tensor> contrastive_loss(Tensor vectors, int64_t order, bool normalize) {
  const int64_t B = batch_of(vectors, order);
  const OnDeviceOf on(vectors);
  const Tensor v = dense_rows(vectors);
  auto a = args_of<ScoreArgs>(v, order);
  Tensor loss = empty(v, {}), gram = empty(v, {B, order, order}, wide(v));
  if (B == 0) return fill_nan(loss), std::tuple(loss, gram);
  Tensor partial = empty(v, {B}, wide(v));
  a.normalize = normalize;
  a.gram = gram.mutable_data_ptr();
  a.partial_contrastive = partial.mutable_data_ptr();
  a.contrastive = loss.mutable_data_ptr();
  contrastive_loss(a, on.stream);
  return {loss, gram};
}

Tensor contrastive_loss_backward(Tensor grad, Tensor vectors, Tensor gram, bool normalize) {
  STD_TORCH_CHECK(gram.dim() == 3, "gram: expected (B, E, E)");
  const int64_t order = gram.size(1), B = batch_of(vectors, order);
  check_sizes(gram, {B, order, order}, wide(vectors), "gram");
  const OnDeviceOf on(vectors);
  const Tensor v = dense_rows(vectors), products = contiguous(gram);
  const auto factor = scalar(grad, v);
  auto a = args_of<ScoreGradArgs>(v, order);
  a.normalize = normalize;
  a.grad_contrastive = data_of(factor);
  a.gram = products.const_data_ptr();
  Tensor grad_vectors = new_gradient(v, a);
  if (B > 0) contrastive_loss_backward(a, on.stream);
  return grad_vectors;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> orbit_losses(Tensor vectors, Tensor reference,
                                                                        std::optional<Tensor> target, int64_t order,
                                                                        double beta, double prior_beta, bool cosine,
                                                                        bool normalize) {
  const int64_t B = batch_of(vectors, order);
  check_sizes(reference, {vectors.size(1)}, vectors.scalar_type(), "reference");
  check_target(target, B);
  const OnDeviceOf on(vectors);
  const Tensor v = dense_rows(vectors), r = contiguous(reference);
  auto a = args_of<ScoreArgs>(v, order);
  set_scores(a, r, beta, cosine);
  set_target(a, target, prior_beta);
  const auto [activations, probabilities, element] = new_scores(v, a);
  Tensor prior = empty(v, {}), contrastive = empty(v, {}), gram = empty(v, {B, order, order}, wide(v));
  if (B == 0) {
    fill_nan(prior);
    fill_nan(contrastive);
    return {activations, probabilities, element, prior, contrastive, gram};
  }
  Tensor of_prior = empty(v, {B}, wide(v)), of_contrastive = empty(v, {B}, wide(v));
  a.normalize = normalize;
  a.gram = gram.mutable_data_ptr();
  a.partial_prior = of_prior.mutable_data_ptr();
  a.partial_contrastive = of_contrastive.mutable_data_ptr();
  a.prior = prior.mutable_data_ptr();
  a.contrastive = contrastive.mutable_data_ptr();
  orbit_losses(a, on.stream);
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
  check_sizes(gram, {B, order, order}, wide(vectors), "gram");
  check_target(target, B);
  const OnDeviceOf on(vectors);
  const Tensor scores = contiguous(activations), products = contiguous(gram);
  const auto of_prior = scalar(grad_prior, vectors), of_contrastive = scalar(grad_contrastive, vectors);
  return score_gradients(grad_activations, grad_probabilities, vectors, reference, probabilities, beta, cosine,
                         [&](ScoreGradArgs a, Stream stream) {
                           set_target(a, target, prior_beta);
                           a.normalize = normalize;
                           a.activations = scores.const_data_ptr();
                           a.gram = products.const_data_ptr();
                           a.grad_prior = data_of(of_prior);
                           a.grad_contrastive = data_of(of_contrastive);
                           orbit_losses_backward(a, stream);
                         });
}

}  // namespace equifast::cuda
