// The ops on vectors, as torch calls them on the CPU. Shapes and meaning: equifast/ops.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

namespace equifast {

using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor> orbit_scores(Tensor vectors, Tensor reference, int64_t order, double beta,
                                                bool cosine);
std::tuple<Tensor, Tensor> orbit_scores_backward(std::optional<Tensor> grad_activations,
                                                 std::optional<Tensor> grad_probabilities, Tensor vectors,
                                                 Tensor reference, Tensor probabilities, double beta, bool cosine);
std::tuple<Tensor, Tensor> contrastive_loss(Tensor vectors, int64_t order, bool normalize);
Tensor contrastive_loss_backward(Tensor grad, Tensor vectors, Tensor gram, bool normalize);

}  // namespace equifast
