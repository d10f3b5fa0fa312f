// Scores and losses of vectors (E·B, d), element-major, as the kernels take them. Shapes and meaning: equifast/ops.
#pragma once

#include "cuda/device/pixels.cuh"

namespace equifast::cuda {

// What is read either way. A kernel ignores what its op lacks.
struct VectorArgs {
  Dtype dtype;
  int64_t E, B, d;
  const void* vectors;    // (E·B, d), rows dense
  int64_t row;            // from one row to the next
  const void* reference;  // (d,)
  const int64_t* target;  // (B,), or null: the identity
  int64_t target_step;
  double beta, prior_beta;
  bool cosine, normalize;
  int width;  // how many columns of the vectors a block shares at once; set by the host functions below
};

// One reading of the vectors.
struct ScoreArgs : VectorArgs {
  void* activations;          // (B, E)
  void* probabilities;        // (B, E)
  int64_t* element;           // (B,)
  void* gram;                 // (B, E, E) in the accumulate type
  void* partial_contrastive;  // (B,) in the accumulate type: what each sample adds to the loss
  void* partial_prior;        // (B,), the same
  void* contrastive;          // ()
  void* prior;                // ()
};

// A gradient (B, E) as autograd hands it: often expanded.
struct Gradient {
  const void* data;  // or null
  int64_t sample, element;
};

// The way back.
struct ScoreGradArgs : VectorArgs {
  Gradient grad_activations, grad_probabilities;
  const void* grad_prior;        // (), or null
  const void* grad_contrastive;  // (), or null
  const void* activations;       // (B, E)
  const void* probabilities;     // (B, E)
  const void* gram;              // (B, E, E) in the accumulate type
  void* grad_vectors;            // (E·B, d)
  void* grad_reference;          // (d,)
  void* partial;                 // (grad_blocks(B), d) in the accumulate type: the same, of each block
};

// Of how many blocks each has a partial gradient of the reference: the same on every device, as sums depend on it.
__host__ __device__ inline int64_t samples_per_block(int64_t B) { return ceil_div<int64_t>(B, 1024); }
inline int64_t grad_blocks(int64_t B) { return B ? ceil_div(B, samples_per_block(B)) : 0; }

void orbit_scores(const ScoreArgs& args, Stream stream);
void orbit_scores_backward(const ScoreGradArgs& args, Stream stream);
void contrastive_loss(const ScoreArgs& args, Stream stream);
void contrastive_loss_backward(const ScoreGradArgs& args, Stream stream);
void orbit_losses(const ScoreArgs& args, Stream stream);
void orbit_losses_backward(const ScoreGradArgs& args, Stream stream);

}  // namespace equifast::cuda
