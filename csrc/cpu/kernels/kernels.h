// The CPU kernels as host code sees them: functions on plain memory, each called for a range of independent tasks.
//
// Every kernel is compiled once for each instruction set, in a namespace of its own. cpu_kernels() picks the
// instruction set at first use.
#pragma once

#include <cstdint>

#include "common/types.h"
#include "cpu/kernels/conv2d.h"
#include "cpu/kernels/conv2d_tiles.h"
#include "geometry.h"

namespace equifast::cpu {

// Channels that one task handles together at most: they share the positions of their pixels.
constexpr int64_t kChannelBlock = 4;

// Images (E, B, C, H, W), or (B, C, H, W) where all elements share them, with e = 0. Either the columns of a row or the
// channels of a pixel are neighbours.
struct Images {
  const void* data;
  int64_t e, b, c, h, w;  // strides in values
};

// The transposed interpolation as a sparse matrix. For output y, source pixel s gets the sum of weight[k]·y[index[k]]
// over k in [start[s], start[s + 1]).
struct Footprint {
  int64_t* start;
  uint32_t* index;
  void* weight;  // double for float64 pixels, else float
};

// What one call does to images (B, C, H, W): the action of every element, factored for this grid, and how the channels
// follow it.
struct Resample {
  Dtype dtype;
  int64_t B, C, H, W;
  int64_t order;  // E, the number of elements
  const Action* actions;
  const int64_t* base;          // (E,): which of the distinct bases an element has; −1 where it is exact
  int64_t bases;                // how many distinct bases are not the identity
  const Footprint* footprints;  // (bases,) if this is the transpose; else null
  const int64_t* permutation;   // (E, permutation_size), or null
  int64_t permutation_size;     // how many channels an element permutes among themselves
  const double* mixing;         // (E, 2, 2), or null
  bool border;
  int64_t interleaved;    // how many channels lie side by side in images that are read and written: 1 or C
  int64_t channel_block;  // channels that a task handles together; even where pairs of them mix, C if interleaved
  int64_t row_runs;       // orbit, act: into how many runs of rows a task's image is cut
  bool all_elements;      // orbit: a task makes every element of its image
  bool reuse_bases;       // all elements read one image: interpolate each distinct base once
  bool around_cache;      // orbit: write pixels that are only moved around the cache

  int64_t channel_blocks() const { return (C + channel_block - 1) / channel_block; }
};

struct ResampleArgs {
  Resample resample;
  Images in;
  Images second;           // orbit_inner: the second operand
  const void* weights;     // (B, E) in the accumulate type, or null
  const int64_t* element;  // act: (B,)
  int64_t images;          // act: how many there are; output b is of image b modulo this
  void* out;               // contiguous, or channels_last if interleaved; orbit_inner: (B, C, E) partial sums in double
};

struct AngleArgs {
  Resample resample;
  Images in, image, grad;  // x, its canonical images and the gradient there
  const int64_t* element;  // (B,)
  int64_t turns;           // how many of the first elements are rotations; the others are reflections
  double* out;             // (B, C, 2) partial sums
};

struct FootprintArgs {
  Resample resample;
  const Matrix* bases;
  const Footprint* out;
};

// A matrix whose rows each have a run of numbers other than 0, perhaps an empty one: row i has those from start[i] to
// start[i + 1] of `weight`, in the columns from first[i] on. Neither end of the run moves back from a row to the next.
struct BandMatrix {
  int64_t rows, columns;
  const int64_t *first, *start;
  const void* weight;  // in the accumulate type

  int64_t count(int64_t i) const { return start[i + 1] - start[i]; }
};

// rows · x · columnsᵀ for every plane x.
struct CropResizeArgs {
  Dtype dtype;
  Images in;
  int64_t B, C;
  int64_t interleaved;  // how many channels lie side by side in a row of `in`: 1 or C
  BandMatrix rows, columns;
  bool columns_first;  // the horizontal pass comes before the vertical one
  int64_t band;        // rows of the output that a task makes; at most kResizeRows if the vertical pass comes first
  void* out;           // contiguous (B, C, rows.rows, columns.rows)

  int64_t bands() const { return (rows.rows + band - 1) / band; }
};

// Rows that the horizontal pass of crop_resize handles at a time: as many as the largest tile of a transpose has.
constexpr int64_t kResizeRows = 16;

// A convolution that reads the output of the one before it.
struct FollowingConv2d {
  Conv2d conv;
  int64_t padding_h, padding_w;
};

// In float32. A task handles all channels of an image together.
struct OrbitConv2dArgs {
  Resample resample;
  Images in;  // may lie in any way
  Conv2d conv;
  int64_t padding_h, padding_w;
  const FollowingConv2d* following;  // the layers after the first
  int64_t followers;                 // how many there are
  float* out;         // weight gradient: for each task, the gradients of weight and then of bias, packed as in conv2d.h
  const float* grad;  // weight gradient: the gradient of the output
  int64_t samples;    // weight gradient: how many images a task sums over

  // Values that the last layer returns for a member.
  int64_t output_values() const {
    const Conv2d& last = followers ? following[followers - 1].conv : conv;
    return last.out_channels * last.out_h * last.out_w;
  }
};

// In bfloat16; the biases and all sums are in float32.
struct OrbitConv2dBfloat16Args {
  OrbitConv2dArgs layers;
  const uint16_t* const* tiles;  // the weight of each layer as conv2d_tiles.h has it, or null for those in float32
  void* out;
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
  const void *grad_activations, *grad_probabilities;  // (B, E); either may be null
  void* grad_vectors;                                 // (E, B, d)
  double* grad_reference;                             // (tasks, d): a partial sum of each task
};

// Forward and backward; a task is a run of `samples` samples.
struct LogitScoreArgs {
  Dtype dtype;
  LogitScore score;
  int64_t E, B, K, samples;
  const void* logits;    // (E, B, K)
  const int64_t* index;  // (B,) of the score of a class, else null
  double beta;
  void* activations;    // forward: (B, E) in the accumulate type
  void* probabilities;  // (B, E) in the accumulate type; forward writes it, backward reads it
  int64_t* element;     // forward: (B,)
  const void *grad_activations, *grad_probabilities;  // backward: (B, E) in the accumulate type; either may be null
  void* grad_logits;                                  // backward: (E, B, K)

  int64_t tasks() const { return (B + samples - 1) / samples; }
};

struct ContrastiveArgs {
  Dtype dtype;
  int64_t E, B, d;
  const void* vectors;  // (E, B, d)
  bool normalize;
  double* partial;     // forward: (B,), the sum of each sample
  void* gram;          // (B, E, E) in the accumulate type; forward writes it, backward reads it
  double scale;        // backward: the incoming gradient over B·E²
  void* grad_vectors;  // backward: (E, B, d)
};

// What batch_norm_act applies; gelu_tanh is the approximation of GELU by tanh.
enum class NormActivation { none, relu, gelu, gelu_tanh, silu };

// Batch normalization of images (N, C, pixels), or (N, pixels, C) if channels_last, in pieces of `piece` pixels.
// Numbers of a channel are in the accumulate type. Where they are channels_last, all pixels count as those of one
// image.
struct BatchNormArgs {
  Dtype dtype;
  NormActivation activation;
  bool channels_last;
  int64_t N, C, pixels, piece;
  const void *x, *grad;
  void* out;
  const void *mean, *scale, *shift;  // (C,)
  const void *level, *tilt;          // (C,): backward
  double *first, *second;            // (pieces of all images, C): of statistics and sums, what is found for each piece

  int64_t pieces() const { return (pixels + piece - 1) / piece; }  // of an image
};

// Samples that one task of the kernels on vectors handles. It is fixed, so that no sum depends on the number of
// threads.
constexpr int64_t kScoreSamples = 16;
inline int64_t score_tasks(int64_t batch) { return (batch + kScoreSamples - 1) / kScoreSamples; }

// Every kernel, and the arguments that it takes. A kernel has the name of its op. Some are a part of one: footprint,
// which serves the transposes of interpolations; orbit_conv2d_bfloat16 and orbit_conv2d_grad_weight; and what
// batch_norm_act and its backward pass sum up first.
#define EQUIFAST_CPU_KERNELS(X)                     \
  X(orbit, ResampleArgs)                            \
  X(orbit_adjoint, ResampleArgs)                    \
  X(act, ResampleArgs)                              \
  X(act_adjoint, ResampleArgs)                      \
  X(orbit_average, ResampleArgs)                    \
  X(orbit_average_adjoint, ResampleArgs)            \
  X(orbit_inner, ResampleArgs)                      \
  X(angle_inner, AngleArgs)                         \
  X(footprint, FootprintArgs)                       \
  X(crop_resize, CropResizeArgs)                    \
  X(orbit_conv2d, OrbitConv2dArgs)                  \
  X(orbit_conv2d_bfloat16, OrbitConv2dBfloat16Args) \
  X(orbit_conv2d_grad_weight, OrbitConv2dArgs)      \
  X(orbit_scores, ScoreArgs)                        \
  X(orbit_scores_backward, ScoreGradArgs)           \
  X(orbit_logit_scores, LogitScoreArgs)             \
  X(orbit_logit_scores_backward, LogitScoreArgs)    \
  X(contrastive_loss, ContrastiveArgs)              \
  X(contrastive_loss_backward, ContrastiveArgs)     \
  X(batch_norm_act_statistics, BatchNormArgs)       \
  X(batch_norm_act, BatchNormArgs)                  \
  X(batch_norm_act_sums, BatchNormArgs)             \
  X(batch_norm_act_backward, BatchNormArgs)

struct Kernels {
#define EQUIFAST_MEMBER(name, Args) void (*name)(const Args&, int64_t begin, int64_t end);
  EQUIFAST_CPU_KERNELS(EQUIFAST_MEMBER)
#undef EQUIFAST_MEMBER
};

const Kernels& cpu_kernels();

}  // namespace equifast::cpu
