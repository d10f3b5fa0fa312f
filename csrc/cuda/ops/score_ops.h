// Scores and losses, as torch calls them on a GPU. Shapes and meaning: equifast/ops.
#pragma once

#include "cuda/runtime/images.h"

namespace equifast::cuda {

std::tuple<Tensor, Tensor, Tensor> orbit_scores(Tensor vectors, Tensor reference, int64_t order, double beta,
                                                bool cosine);
std::tuple<Tensor, Tensor> orbit_scores_backward(std::optional<Tensor> grad_activations,
                                                 std::optional<Tensor> grad_probabilities, Tensor vectors,
                                                 Tensor reference, Tensor probabilities, double beta, bool cosine);
std::tuple<Tensor, Tensor> contrastive_loss(Tensor vectors, int64_t order, bool normalize);
Tensor contrastive_loss_backward(Tensor grad, Tensor vectors, Tensor gram, bool normalize);
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> orbit_losses(Tensor vectors, Tensor reference,
                                                                        std::optional<Tensor> target, int64_t order,
                                                                        double beta, double prior_beta, bool cosine,
                                                                        bool normalize);
std::tuple<Tensor, Tensor> orbit_losses_backward(
    std::optional<Tensor> grad_activations, std::optional<Tensor> grad_probabilities, std::optional<Tensor> grad_prior,
    std::optional<Tensor> grad_contrastive, Tensor vectors, Tensor reference, std::optional<Tensor> target,
    Tensor activations, Tensor probabilities, Tensor gram, double beta, double prior_beta, bool cosine, bool normalize);

}  // namespace equifast::cuda
