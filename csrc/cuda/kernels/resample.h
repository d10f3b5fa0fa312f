// The kernels that resample images, and the arguments that host code gives them. Shapes and meaning: equifast/ops.
#pragma once

#include "common/types.h"
#include "cuda/runtime/arithmetic.h"
#include "cuda/runtime/device_table.h"

namespace equifast::cuda {

constexpr int kTileThreads = 256;  // of a block
constexpr int kUnits = 4;          // that a thread owns
constexpr int kQuad = 4;           // channels of a unit: a unit is one pixel of them, which share its position

// How images are cut into tiles of up to kTileThreads · kUnits units. A tile has many pixels; or many channels, where
// those are neighbours in memory or images are small.
struct Tiling {
  int32_t log2_rows, log2_columns, log2_quads;     // the size of a tile
  int32_t row_tiles, column_tiles, channel_tiles;  // how many tiles an image has along each axis
  bool channels_together;                          // neighbouring threads have neighbouring channels, not pixels

  Tiling() = default;
  Tiling(int64_t C, int64_t H, int64_t W, bool together) : channels_together(together && C > 1) {
    const int32_t all_quads = log2_of(ceil_div<int64_t>(C, kQuad));
    // Where channels are together, a warp should read eight quads of a pixel, if there are so many.
    const int32_t reserved = channels_together ? at_most(all_quads, 3) : 0;
    log2_columns = at_most(log2_of(W), (kLog2Units - reserved + 1) / 2);
    log2_rows = at_most(log2_of(H), at_most(kLog2Units - reserved - log2_columns, kLog2Side));
    log2_quads = at_most(all_quads, at_most(kLog2Units - log2_rows - log2_columns, kLog2Quads));
    row_tiles = tiles_of(H, log2_rows);
    column_tiles = tiles_of(W, log2_columns);
    channel_tiles = tiles_of(C, log2_quads + 2);
  }
  EQUIFAST_HD int64_t tiles() const { return int64_t(row_tiles) * column_tiles * channel_tiles; }

  // The largest tile: all of its units; its rows and its columns; its quads of channels.
  static constexpr int32_t kLog2Units = 10, kLog2Side = 5, kLog2Quads = 4;
  static_assert(1 << kLog2Units == kTileThreads * kUnits);

 private:
  static int32_t log2_of(int64_t n) {
    int32_t k = 0;
    while (INT64_C(1) << k < n) ++k;
    return k;
  }
  static int32_t tiles_of(int64_t n, int32_t log2) { return static_cast<int32_t>(((n - 1) >> log2) + 1); }
};

// Where the pixels of images (E, B, C, H, W) lie in memory.
struct Layout {
  int64_t e, b, c, h, w;  // strides in pixels; e is 0 where all elements share the images
  bool vector_rows;       // every row can be read and written in whole vectors
  bool vector_quads;      // every quad of channels can be read and written at once
};

// The action of a group on images (E, B, C, H, W).
struct Resample {
  Dtype dtype;
  bool adjoint;  // the transpose
  DeviceTable table;
  Tiling tiling;
  int64_t B;
  int32_t C, H, W;
  const void* in;
  Layout in_layout;
  const Offsets* lines;  // of a transposed interpolation, (E, H + W): see runtime/lines.h
};

struct ResampleArgs {
  Resample resample;
  const void* weights;  // (B, E) in the accumulate type, or null
  int64_t weight_b, weight_e;
  const int64_t* element;  // act: (B,)
  int64_t element_b;
  uint32_t images;  // act: how many there are; output b is of image b modulo this
  void* out;
  Layout out_layout;
};

void launch_orbit(const ResampleArgs& args, Stream stream);
void launch_act(const ResampleArgs& args, Stream stream);
void launch_orbit_average(const ResampleArgs& args, Stream stream);

// The parts of an image that blocks sum: runs of its tiles, as few as keep a GPU busy.
struct Parts {
  int64_t tiles;  // of one part
  int64_t count;  // parts of an image

  Parts() = default;
  Parts(const Tiling& tiling, int64_t B) {
    constexpr int64_t kBlocks = 2048;  // some fifteen for each multiprocessor of an H100
    tiles = B < kBlocks ? ceil_div(tiling.tiles() * B, kBlocks) : tiling.tiles();
    count = ceil_div(tiling.tiles(), tiles);
  }
};

struct InnerArgs {
  Resample resample;  // of u
  const void* v;
  Layout v_layout;
  Parts parts;
  void* partial;  // (parts, B, E) in the accumulate type
};

void launch_orbit_inner(const InnerArgs& args, Stream stream);

struct AngleArgs {
  Resample resample;       // of x; only its rotations
  int32_t turns;           // how many rotations the group has
  const int64_t* element;  // (B,)
  int64_t element_b;
  const void *image, *grad;  // the canonical images, and the gradient there
  Layout image_layout, grad_layout;
  Parts parts;
  void* partial;  // (parts, B, 2) in the accumulate type
};

void launch_angle_inner(const AngleArgs& args, Stream stream);

}  // namespace equifast::cuda
