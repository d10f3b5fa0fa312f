// The kernels on vectors (E·B, d), element-major, and the arguments that host code gives them. Shapes and meaning:
// equifast/ops.
#pragma once

#include "common/types.h"
#include "cuda/runtime/arithmetic.h"
#include "cuda/runtime/hardware.h"

namespace equifast::cuda {

// What forward and backward kernels read. A kernel ignores what its op lacks.
struct VectorArgs {
  Dtype dtype;
  int64_t E, B, d;
  const void* vectors;    // (E·B, d); the values of a row are neighbours in memory
  int64_t row;            // values from one row to the next
  const void* reference;  // (d,)
  const int64_t* target;  // (B,), or null: the identity
  int64_t target_step;
  double beta, prior_beta;
  bool cosine, normalize;
  int width;  // how many columns of the vectors a block shares at once; set by the launch functions
};

// What forward kernels write.
struct ScoreArgs : VectorArgs {
  void* activations;          // (B, E)
  void* probabilities;        // (B, E)
  int64_t* element;           // (B,)
  void* gram;                 // (B, E, E) in the accumulate type
  void* partial_contrastive;  // (B,) in the accumulate type: what each sample adds to the loss
  void* partial_prior;        // (B,) in the accumulate type, likewise
  void* contrastive;          // ()
  void* prior;                // ()
};

// A gradient (B, E) as autograd passes it on: its strides may be 0.
struct Gradient {
  const void* data;  // or null
  int64_t sample, element;
};

// What backward kernels read and write.
struct ScoreGradArgs : VectorArgs {
  Gradient grad_activations, grad_probabilities;
  const void* grad_prior;        // (), or null
  const void* grad_contrastive;  // (), or null
  const void* activations;       // (B, E)
  const void* probabilities;     // (B, E)
  const void* gram;              // (B, E, E) in the accumulate type
  void* grad_vectors;            // (E·B, d)
  void* grad_reference;          // (d,)
  void* partial;                 // (grad_blocks(B), d) in the accumulate type: what each block adds to grad_reference
};

// What the kernels on logits (E·B, K) take; what only one of them takes is named so. Whatever is (B, E) is in the
// accumulate type.
struct LogitScoreArgs {
  Dtype dtype;
  LogitScore score;
  int64_t E, B, K;
  const void* logits;    // (E·B, K); the values of a row are neighbours in memory
  int64_t row;           // values from one row to the next
  const int64_t* index;  // (B,) of the score of a class, else null
  double beta;
  void* activations;                              // forward: (B, E)
  void* probabilities;                            // (B, E); forward writes it, backward reads it
  int64_t* element;                               // forward: (B,)
  Gradient grad_activations, grad_probabilities;  // backward
  void* grad_logits;                              // backward: (E·B, K)
};

// A backward kernel has a block for each run of samples, and at most kMaxGradBlocks of them. Every block has a partial
// gradient of the reference. Their number is the same on every device, since the sum depends on it.
constexpr int64_t kMaxGradBlocks = 1024;
EQUIFAST_HD inline int64_t samples_per_block(int64_t B) { return ceil_div<int64_t>(B, kMaxGradBlocks); }
inline int64_t grad_blocks(int64_t B) { return B ? ceil_div(B, samples_per_block(B)) : 0; }

void launch_orbit_scores(const ScoreArgs& args, Stream stream);
void launch_orbit_scores_backward(const ScoreGradArgs& args, Stream stream);
void launch_orbit_logit_scores(const LogitScoreArgs& args, Stream stream);
void launch_orbit_logit_scores_backward(const LogitScoreArgs& args, Stream stream);
void launch_contrastive_loss(const ScoreArgs& args, Stream stream);
void launch_contrastive_loss_backward(const ScoreGradArgs& args, Stream stream);
void launch_orbit_losses(const ScoreArgs& args, Stream stream);
void launch_orbit_losses_backward(const ScoreGradArgs& args, Stream stream);

}  // namespace equifast::cuda
