// The CPU kernels as the rest of the library sees them: plain memory, one range of independent tasks a call.
//
// Every function is compiled once for each instruction set, in its own namespace; cpu_kernels() picks one at first use.
#pragma once

#include <cstdint>

#include "cpu/kernels/conv2d.h"
#include "geometry.h"

namespace equifast::cpu {

enum class Dtype { float64, float32, float16, bfloat16 };

// (E, B, C, H, W) or, where all elements share one image, (B, C, H, W) with e = 0. Strides in pixels; rows are dense.
struct Images {
  const void* data;
  int64_t e, b, c, h;
};

// The transposed interpolation as a sparse matrix: source pixel s sums weight[k]·y[index[k]] for k in
// start[s]…start[s+1].
struct Footprint {
  int64_t* start;
  uint32_t* index;
  void* weight;  // double for float64 pixels, else float
};

// What one call does to (B, C, H, W): every action, factored for this grid, and how channels follow.
struct Warp {
  Dtype dtype;
  int64_t B, C, H, W;
  int64_t order;
  const Action* actions;
  const int64_t* base;          // per element: which of the distinct bases it has; −1 where exact
  int64_t bases;                // how many distinct bases are not the identity
  const Footprint* footprints;  // per distinct base, for adjoint warps; else null
  const int64_t* permutation;   // order × block, or null
  int64_t block;
  const double* mixing;  // order × 4, or null
  bool border;
  int64_t group;  // channels a task handles together: even where pairs mix
  int64_t parts;  // orbit, act: into how many runs of rows a task's image is cut
  bool whole;     // orbit: a task makes every element of its image
  bool reuse;     // one source image for all elements: interpolate each distinct base once

  int64_t groups() const { return (C + group - 1) / group; }
};

struct WarpArgs {
  Warp warp;
  Images in;
  Images other;            // orbit_inner: the second operand
  const void* weights;     // (B, E) in the accumulate type, or null
  const int64_t* element;  // act: (B,)
  void* out;               // dense pixels; orbit_inner: (B, C, E) partial sums in double
};

struct FootprintArgs {
  Warp warp;
  const Matrix* bases;
  const Footprint* out;
};

// float32, all channels of an image in one group.
struct OrbitConv2dArgs {
  Warp warp;
  Images in;
  Conv2d conv;
  int64_t padding_h, padding_w;
  float* out;         // weight gradient: for each task, that of weight and then that of bias, as conv2d.h has them
  const float* grad;  // weight gradient: that of the output
  int64_t samples;    // weight gradient: images a task sums
};

struct ScoreArgs {
  Dtype dtype;
  int64_t E, B, d;
  const void* vectors;    // (E, B, d)
  const void* reference;  // (d,)
  double beta;
  bool cosine;
  void *activations, *probabilities;  // (B, E)
  int64_t* element;                   // (B,)
};

struct ScoreGradArgs {
  Dtype dtype;
  int64_t E, B, d;
  const void *vectors, *reference, *probabilities;
  double beta;
  bool cosine;
  const void *grad_activations, *grad_probabilities;  // (B, E), either may be null
  void* grad_vectors;                                 // (E, B, d)
  double* grad_reference;                             // one (d,) partial sum for each task
};

struct ContrastiveArgs {
  Dtype dtype;
  int64_t E, B, d;
  const void* vectors;  // (E, B, d)
  bool normalize;
  double* partial;  // forward: one sum for each sample
  void* gram;       // (B, E, E) in the accumulate type: written forward, read backward
  double scale;     // backward: the incoming gradient over B·E²
  void* grad_vectors;
};

// Samples that one task of the score kernels handles; fixed, so that sums do not depend on the number of threads.
constexpr int64_t kScoreSamples = 16;

// Every kernel and what it takes.
#define EQUIFAST_CPU_KERNELS(X)           \
  X(orbit, WarpArgs)                      \
  X(orbit_adjoint, WarpArgs)              \
  X(act, WarpArgs)                        \
  X(act_adjoint, WarpArgs)                \
  X(orbit_average, WarpArgs)              \
  X(orbit_average_adjoint, WarpArgs)      \
  X(orbit_inner, WarpArgs)                \
  X(orbit_conv2d, OrbitConv2dArgs)        \
  X(orbit_conv2d_weight, OrbitConv2dArgs) \
  X(footprint, FootprintArgs)             \
  X(orbit_scores, ScoreArgs)              \
  X(orbit_scores_backward, ScoreGradArgs) \
  X(contrastive_loss, ContrastiveArgs)    \
  X(contrastive_loss_backward, ContrastiveArgs)

struct Kernels {
#define EQUIFAST_MEMBER(name, Args) void (*name)(const Args&, int64_t begin, int64_t end);
  EQUIFAST_CPU_KERNELS(EQUIFAST_MEMBER)
#undef EQUIFAST_MEMBER
};

const Kernels& cpu_kernels();

}  // namespace equifast::cpu
