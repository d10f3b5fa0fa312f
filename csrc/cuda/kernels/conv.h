// Convolutions of an orbit as implicit matrix products, from tiles of its members in shared memory.
//
// A product has a row for each place of a tile, a column for each output channel, and sums over words: a word is what a
// matrix instruction takes at once, two 16-bit numbers or one wider one. The input gradient is such a convolution too:
// of permuted gradients, with a column for each pixel of a cell (see Axis).
#pragma once

#include "cuda/device/pixels.cuh"
#include "cuda/runtime/device_table.h"

namespace equifast::cuda {

// What is multiplied, and how; all sum in float32 but float64.
enum class Math { float64, float32, tf32, float16, bfloat16 };

enum class Activation : int32_t { none, relu, gelu, silu };

// Division by a number that is known before: n / d for 0 ≤ n < 2³¹.
struct Divider {
  uint32_t divisor = 1, factor = 0, shift = 0;

  Divider() = default;
  explicit Divider(int64_t d) : divisor(static_cast<uint32_t>(d)) {
    while ((uint64_t(1) << shift) < divisor) ++shift;
    factor = static_cast<uint32_t>((((uint64_t(1) << shift) - divisor) << 32) / divisor + 1);
  }
  EQUIFAST_HD int32_t divide(int32_t n) const {
    const uint64_t high = uint64_t(n) * factor >> 32;
    return static_cast<int32_t>((high + n) >> shift);
  }
  // n becomes the quotient; returns the rest.
  EQUIFAST_HD int32_t split(int32_t& n) const {
    const int32_t quotient = divide(n), rest = n - quotient * static_cast<int32_t>(divisor);
    n = quotient;
    return rest;
  }
};

struct Images {
  const void* data;
  int64_t n, c, h, w;  // strides in pixels
};

// F.conv2d's arguments along one axis.
struct Window {
  int32_t size, kernel, stride, padding, dilation;  // size: of the image
};

// Along an axis of the source, the outputs of one member that cells read: pixel u · cell + f is read by output a · u +
// δ, or δ − a · u where the member counts down, for some δ in [least, most].
struct Axis {
  int32_t least, most, step;
  bool reversed;

  EQUIFAST_HD Axis(const Window& w, int32_t cell, bool down) : step(cell / w.stride), reversed(down) {
    const int32_t reach = (w.kernel - 1) * w.dilation, first = (down ? w.size - cell : 0) + w.padding;
    least = ceil_of(first - reach, w.stride);
    most = floor_of(first + cell - 1, w.stride);
  }
  EQUIFAST_HD int32_t count() const { return most - least + 1; }

  // Which of the kernel's taps leads from pixel f of a cell to the t-th of its outputs; −1 if none.
  EQUIFAST_HD int32_t tap(const Window& w, int32_t f, int32_t t) const {
    const int32_t output = reversed ? most - t : least + t;
    const int32_t distance = (reversed ? w.size - 1 - f : f) + w.padding - output * w.stride;
    const bool hit = distance >= 0 && distance % w.dilation == 0 && distance / w.dilation < w.kernel;
    return hit && t < count() ? distance / w.dilation : -1;
  }

 private:
  EQUIFAST_HD static int32_t floor_of(int32_t a, int32_t b) { return (a < 0 ? a - b + 1 : a) / b; }
  EQUIFAST_HD static int32_t ceil_of(int32_t a, int32_t b) { return (a > 0 ? a + b - 1 : a) / b; }
};

// How a tile of the source lies in shared memory: (channels, rows, words) of one pass, which sums over those channels
// and over some rows of the kernel.
struct TileLayout {
  int32_t channels, rows, words;
  int32_t pitch, plane;  // words from row to row, from channel to channel
  int32_t pair;          // columns from the first number of a word to the second
  bool dense;            // words hold columns 2q and 2q + 1, else q and q + pair
  int32_t kernel_rows, kernel_words;
  // Where rows of places share no rows of the source, those between are left out: tiles have `kernel_rows` rows for
  // each row of places, as far from one another in the source as the convolution's stride and dilation say.
  bool apart;
  int32_t stride, dilation;
  int32_t row_passes, passes;  // channels of `passes / row_passes` passes, each with `row_passes` runs of kernel rows
  int32_t steps;               // of eight words, in one pass
  Divider by_channels, by_rows, by_words, by_kernel_rows, by_kernel_words;
};

struct ConvArgs {
  Math math;
  bool gradient;  // of the input: `in` is the gradient of the output, of all members
  Table table;
  Matrix base;           // gradient: of the elements that are summed
  Window rows, columns;  // of the convolution
  Images in;
  int32_t batch, in_channels, in_h, in_w, columns_of_product;
  const void* bias;  // or null
  Activation activation;
  const void* weight;  // (N, C, kh, kw) with strides
  int64_t wn, wc, wh, ww;

  // Output places: a grid of cells, tile_h · tile_w of them a block, of cell_h · cell_w pixels.
  void* out;
  bool wide_out;  // gradient: in the accumulate type
  int64_t on, oc, oh, ow;
  int32_t out_channels, out_h, out_w, cell_h, cell_w;
  int32_t tile_h, tile_shift;  // tile_w = 1 << tile_shift
  // Of the product: the convolution's, or outputs that a cell reads, which lie side by side.
  int32_t kernel_h, kernel_w, dilation_h, dilation_w;
  Divider tiles_x, tiles_y, column_blocks, by_batch, by_cell_h, by_cell_w, by_block_columns;

  TileLayout tile;
  void* packed;  // the weights as the products read them
};

// Shapes of `rows`, `columns`, `in`, `weight`, `out` and what they hold must be set; plans the rest.
void plan(ConvArgs& args);
int64_t packed_bytes(const ConvArgs& args);

// Into args.out; args.packed is for its own use.
void convolve(const ConvArgs& args, Stream stream);

// A block sums some tiles of all members, for some output channels and a run of taps: those of some channels and rows
// of the kernel, cut further if there are too many.
struct WeightGradArgs {
  Math math;
  Table table;
  Window rows, columns;
  Images in, grad;  // x, and the gradient of the output
  int32_t batch, in_channels, in_h, in_w, out_channels, out_h, out_w;
  int32_t tile_h, tile_shift;
  int32_t cuts, splits;  // of one run of taps; of the sum over tiles
  int64_t units;         // tiles of all members of all images
  Divider tiles_x, tiles_y, by_batch, by_channel_blocks, by_tap_blocks, by_cuts, by_kernel_w;
  TileLayout tile;
  void* partial;       // (splits, out_channels, in_channels, kernel_h, kernel_w) in the accumulate type
  void* partial_bias;  // (splits, out_channels), or null
};

// Shapes of `rows`, `columns`, `in`, `grad` and what they hold must be set; plans the rest.
void plan(WeightGradArgs& args);
void grad_weight(const WeightGradArgs& args, Stream stream);

}  // namespace equifast::cuda
