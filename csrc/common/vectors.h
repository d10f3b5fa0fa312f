// The arguments of the ops on vectors (E·B, d): row e·B + b belongs to element e of sample b.
#pragma once

#include "common/tensors.h"

namespace equifast {

// The number of samples B.
inline int64_t batch_of(const Tensor& vectors, int64_t order) {
  STD_TORCH_CHECK(vectors.dim() == 2 && order > 0 && vectors.size(0) % order == 0,
                  "vectors: expected (E·B, d) with E = ", order);
  return vectors.size(0) / order;
}

// A tensor that goes with the vectors, and so has known sizes and a known dtype.
inline void check_sizes(const Tensor& t, std::initializer_list<int64_t> sizes, ScalarType dtype, const char* name,
                        const char* dtype_name = "the dtype of vectors") {
  bool fits = t.dim() == static_cast<int64_t>(sizes.size());
  std::string expected;
  int64_t axis = 0;
  for (const int64_t size : sizes) {
    fits = fits && t.size(axis++) == size;
    expected += std::to_string(size) + (axis < static_cast<int64_t>(sizes.size()) ? ", "
                                        : sizes.size() == 1                       ? ","
                                                                                  : "");
  }
  STD_TORCH_CHECK(fits, name, ": expected (", expected, ")");
  STD_TORCH_CHECK(t.scalar_type() == dtype, name, ": expected ", dtype_name);
}

inline void check_reference(const Tensor& reference, const Tensor& vectors) {
  check_sizes(reference, {vectors.size(1)}, vectors.scalar_type(), "reference");
}

// The Gram matrices (B, E, E) of the samples.
inline void check_gram(const Tensor& gram, const Tensor& vectors, int64_t batch, int64_t order) {
  check_sizes(gram, {batch, order, order}, accumulate_dtype(vectors), "gram", "the accumulate type of vectors");
}

inline LogitScore logit_score_of(const std::string& name) {
  if (name == "confidence") return LogitScore::confidence;
  if (name == "margin") return LogitScore::margin;
  if (name == "negative_entropy") return LogitScore::negative_entropy;
  if (name == "energy") return LogitScore::energy;
  STD_TORCH_CHECK(name == "class",
                  "score: expected 'confidence', 'margin', 'negative_entropy', 'energy' or 'class', got '", name, "'");
  return LogitScore::of_class;
}

// What orbit_logit_scores gets; returns the number of samples.
inline int64_t check_logits(const Tensor& logits, const std::optional<Tensor>& index, int64_t order, LogitScore score) {
  STD_TORCH_CHECK(logits.dim() == 2 && order > 0 && logits.size(0) % order == 0 && logits.size(1) > 1,
                  "logits: expected (E·B, K) with K ≥ 2 and E = ", order);
  const int64_t batch = logits.size(0) / order;
  STD_TORCH_CHECK(index.has_value() == (score == LogitScore::of_class), "index: expected ids with the score 'class'");
  if (index) check_sizes(*index, {batch}, ScalarType::Long, "index", "int64");
  return batch;
}

// What orbit_logit_scores_backward gets; returns the order E of the group.
inline int64_t check_logit_gradients(const std::optional<Tensor>& grad_activations,
                                     const std::optional<Tensor>& grad_probabilities, const Tensor& logits,
                                     const std::optional<Tensor>& index, const Tensor& probabilities,
                                     LogitScore score) {
  STD_TORCH_CHECK(probabilities.dim() == 2, "probabilities: expected (B, E)");
  const int64_t order = probabilities.size(1), batch = check_logits(logits, index, order, score);
  const ScalarType dtype = accumulate_dtype(logits);
  const char* expected = "the accumulate type of logits";
  check_sizes(probabilities, {batch, order}, dtype, "probabilities", expected);
  if (grad_activations) check_sizes(*grad_activations, {batch, order}, dtype, "grad_activations", expected);
  if (grad_probabilities) check_sizes(*grad_probabilities, {batch, order}, dtype, "grad_probabilities", expected);
  return order;
}

// What orbit_scores_backward gets; returns the order E of the group.
inline int64_t check_score_gradients(const std::optional<Tensor>& grad_activations,
                                     const std::optional<Tensor>& grad_probabilities, const Tensor& vectors,
                                     const Tensor& reference, const Tensor& probabilities) {
  STD_TORCH_CHECK(probabilities.dim() == 2, "probabilities: expected (B, E)");
  const int64_t order = probabilities.size(1), batch = batch_of(vectors, order);
  const ScalarType dtype = vectors.scalar_type();
  check_sizes(probabilities, {batch, order}, dtype, "probabilities");
  check_reference(reference, vectors);
  if (grad_activations) check_sizes(*grad_activations, {batch, order}, dtype, "grad_activations");
  if (grad_probabilities) check_sizes(*grad_probabilities, {batch, order}, dtype, "grad_probabilities");
  return order;
}

}  // namespace equifast
