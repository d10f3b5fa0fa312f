// The kernels of orbit_conv2d, and the arguments that host code gives them: convolutions of an orbit as implicit matrix
// products, from tiles of its members in shared memory.
//
// A product has a row for each place of a tile and a column for each output channel; it sums over words (products.h).
// The input gradient is such a convolution too. It convolves permuted gradients, and has a column for each pixel of a
// cell (see Axis). runtime/conv_plan.h fills in what these arguments need besides tensors.
#pragma once

#include "common/types.h"
#include "cuda/kernels/products.h"
#include "cuda/runtime/arithmetic.h"

namespace equifast::cuda {

// Images (N, C, H, W), or the weight of a convolution. Strides in numbers.
struct StridedInput {
  const void* data;
  int64_t n, c, h, w;
};
struct StridedOutput {
  void* data;
  int64_t n, c, h, w;
};

// A member of an orbit: a permutation, by a code of quarter_turn, of x or of a base image. See runtime/conv_members.h.
struct Member {
  int32_t code;
  int32_t source;  // 0: x; k: base image k − 1
};

struct DeviceMembers {
  static constexpr int kInlineElements = 24;  // of the largest group whose members fit in the argument

  int32_t order;         // E, the number of elements
  const Member* memory;  // (E,): those of a larger group, in the memory of the device; else null
  Member inline_members[kInlineElements];

  __device__ Member operator[](int64_t e) const { return memory ? memory[e] : inline_members[e]; }
};

// For the input gradient, the pixels of an image are cut into cells, which read the same few outputs of a member. Along
// one axis of the source, pixel u·cell + f is read by the outputs u·outputs_per_cell + δ; or, where the member counts
// down, by the outputs δ − u·outputs_per_cell; for some of the δ in [min_offset, max_offset].
struct Axis {
  int32_t min_offset, max_offset, outputs_per_cell;
  bool reversed;

  EQUIFAST_HD Axis(const Window& w, int32_t cell, bool counts_down)
      : outputs_per_cell(cell / w.stride), reversed(counts_down) {
    const int32_t reach = (w.kernel - 1) * w.dilation, first = (reversed ? w.size - cell : 0) + w.padding;
    min_offset = ceil_of(first - reach, w.stride);
    max_offset = floor_of(first + cell - 1, w.stride);
  }
  EQUIFAST_HD int32_t count() const { return max_offset - min_offset + 1; }

  // The tap of the kernel that leads from pixel f of a cell to the k-th of the outputs that read the cell; −1 if none
  // does.
  EQUIFAST_HD int32_t tap(const Window& w, int32_t f, int32_t k) const {
    const int32_t output = reversed ? max_offset - k : min_offset + k;
    const int32_t distance = (reversed ? w.size - 1 - f : f) + w.padding - output * w.stride;
    const bool is_tap = distance >= 0 && distance % w.dilation == 0 && distance / w.dilation < w.kernel;
    return is_tap && k < count() ? distance / w.dilation : -1;
  }

 private:
  EQUIFAST_HD static int32_t floor_of(int32_t a, int32_t b) { return (a < 0 ? a - b + 1 : a) / b; }
  EQUIFAST_HD static int32_t ceil_of(int32_t a, int32_t b) { return (a > 0 ? a + b - 1 : a) / b; }
};

// How a tile of the source lies in shared memory, (channels, rows, words): what one pass of a product reads, which sums
// over these channels and over some rows of the kernel.
struct TileLayout {
  int32_t channels, rows, words;
  int32_t pitch, plane;  // words from row to row, and from channel to channel
  int32_t pair;          // columns from the first number of a word to the second, unless dense
  bool dense;            // word q holds columns 2q and 2q + 1; else columns q and q + pair
  int32_t kernel_rows, kernel_words;
  // Rows of places may have no row of the source in common. Then the rows between them are left out: the tile has
  // `kernel_rows` rows for each row of places, as far from one another in the source as stride and dilation say.
  bool apart;
  int32_t stride, dilation;
  int32_t row_passes, passes;  // passes / row_passes runs of channels, each with row_passes runs of kernel rows
  int32_t steps;               // of eight words, in one pass
  Divider by_channels, by_rows, by_words, by_kernel_rows, by_kernel_words;

  // Words that a tile takes, with room to align what follows.
  EQUIFAST_HD int64_t size() const { return (int64_t(channels) * plane + 3) / 4 * 4; }
};

// Where a word of a product lies in a tile, in bytes, and which of its numbers count. The others may be anything, even
// NaN.
struct WordTap {
  int32_t offset;
  uint32_t mask;
};

// Of the forward pass, or of the input gradient. plan_convolution sets what is marked "planned", and host code the
// rest. The order of the fields decides how kernels load them: with another order, ptxas spilled registers for sm_90.
struct ConvArgs {
  Math math;
  bool gradient;  // of the input: `in` is then the gradient of the output, of all members
  DeviceMembers members;
  int32_t source;        // gradient: of the members that are summed
  Window rows, columns;  // of the convolution
  StridedInput in;       // x, or the gradient
  StridedInput bases;    // the base images of all images of `in` (K·B, C, H, W), unless all members permute x
  int32_t all_images;    // of the orbit that `out` is a part of: image b of element e is e · all_images + b there
  int32_t batch, in_channels, in_h, in_w;
  int32_t product_columns;  // planned: the output channels of all pixels of a cell
  const void* bias;         // (C_out,), or null
  Activation activation;
  StridedInput weight;  // (C_out, C, kernel height, kernel width)
  StridedOutput out;
  bool out_is_sum;  // gradient: `out` has the accumulate type
  int32_t out_channels, out_h, out_w;

  // Planned: the output is a grid of cells of cell_h · cell_w pixels, and a block has tile_h · tile_w of them. These
  // are the places.
  int32_t cell_h, cell_w, tile_h, tile_shift;  // tile_w = 1 << tile_shift
  // Planned: the kernel of the product. It is the convolution's; or for the gradient, the outputs that a cell reads,
  // which are neighbours.
  int32_t kernel_h, kernel_w, dilation_h, dilation_w;
  Divider tiles_x, tiles_y, column_blocks, by_batch, by_cell_h, by_cell_w;  // planned
  TileLayout tile;                                                          // planned
  void* packed;  // the weights in the order in which products read them
};

// The axes of the source for the input gradient of a member.
struct CellAxes {
  Permutation permutation;
  Axis i, j;

  EQUIFAST_HD CellAxes(const ConvArgs& a, int code)
      : permutation(code),
        i(permutation.transposed ? a.columns : a.rows, a.cell_h, permutation.reverse_row),
        j(permutation.transposed ? a.rows : a.columns, a.cell_w, permutation.reverse_col) {}
};

// Of the weight gradient. A block sums some of the tiles of all members, for some output channels and a run of taps:
// the taps of some channels and rows of the kernel, which are cut further if there are too many. plan_grad_weight sets
// what is marked "planned", and host code the rest.
struct GradWeightArgs {
  Math math;
  DeviceMembers members;
  Window rows, columns;
  StridedInput in, bases, grad;  // x, its base images as in ConvArgs, and the gradient of the output
  int32_t batch, in_channels, in_h, in_w, out_channels, out_h, out_w;

  // Planned.
  int32_t tile_h, tile_shift;  // places of a tile: tile_h rows of 1 << tile_shift
  int32_t cuts;                // of one run of taps
  int32_t splits;              // of the sum over tiles: how many blocks share it
  int64_t units;               // tiles of all members of all images
  Divider tiles_x, tiles_y, by_batch, by_channel_blocks, by_tap_blocks, by_cuts, by_kernel_w;
  TileLayout tile;

  void* partial;       // (splits, C_out, C, kernel height, kernel width) in the accumulate type
  void* partial_bias;  // (splits, C_out), or null
};

// Where the parts of a block's shared memory begin in the weight gradient, in bytes.
struct GradWeightMemory {
  int64_t taps, places, grad, tile, end;

  EQUIFAST_HD GradWeightMemory(const GradWeightShape& shape, const GradWeightArgs& a) {
    taps = 0;
    places = taps + kTaps * sizeof(int32_t);
    grad = places + shape.place_words() * sizeof(WordTap);
    tile = grad + int64_t(shape.channels) * shape.grad_pitch() * shape.word.word_bytes;
    end = tile + a.tile.size() * shape.word.word_bytes;
  }
};

struct ConvPlan;
struct GradWeightPlan;
void launch_orbit_conv2d(const ConvPlan& plan, Stream stream);
void launch_orbit_conv2d_grad_weight(const GradWeightPlan& plan, Stream stream);

}  // namespace equifast::cuda
