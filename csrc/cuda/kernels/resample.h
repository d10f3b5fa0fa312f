// The kernels that move pixels, and what their hosts tell them. Shapes and meaning: equifast/ops.
#pragma once

#include "cuda/device/pixels.cuh"
#include "cuda/runtime/device_table.h"

namespace equifast::cuda {

constexpr int kTileThreads = 256;
constexpr int kUnits = 4;  // of a thread
constexpr int kQuad = 4;   // channels of a unit, which is one pixel of them: they share its position

// How images are cut into tiles of up to kTileThreads · kUnits units: of many pixels, or of many channels where those
// lie together in memory or images are small.
struct Tiling {
  int32_t rows, columns, quads;  // of a tile, as binary logarithms
  int32_t down, across, groups;  // tiles of an image
  bool together;                 // neighbouring threads have neighbouring channels, not pixels

  Tiling() = default;
  Tiling(int64_t C, int64_t H, int64_t W, bool channels_together) : together(channels_together && C > 1) {
    const int32_t all_quads = log2_of(ceil_div<int64_t>(C, kQuad)), first = together ? at_most(all_quads, 3) : 0;
    columns = at_most(log2_of(W), (kLog - first + 1) / 2);
    rows = at_most(log2_of(H), at_most(kLog - first - columns, kMost));
    quads = at_most(all_quads, at_most(kLog - rows - columns, 4));
    down = tiles_of(H, rows), across = tiles_of(W, columns), groups = tiles_of(C, quads + 2);
  }
  EQUIFAST_HD int64_t tiles() const { return int64_t(down) * across * groups; }

  static constexpr int32_t kLog = 10, kMost = 5;  // of units; of rows and of columns
  static_assert(1 << kLog == kTileThreads * kUnits);

 private:
  static int32_t log2_of(int64_t n) {
    int32_t k = 0;
    while (INT64_C(1) << k < n) ++k;
    return k;
  }
  static int32_t tiles_of(int64_t n, int32_t log2) { return static_cast<int32_t>(((n - 1) >> log2) + 1); }
};

// Of images (E, B, C, H, W).
struct Layout {
  int64_t e, b, c, h, w;  // strides in pixels; e is 0 where all elements share them
  bool rows;              // are whole vectors
  bool quads;             // of channels lie together, where they may be read at once
};

// A group's action on images.
struct Transform {
  Dtype dtype;
  bool adjoint;
  Table table;
  Tiling tiling;
  int64_t B;
  int32_t C, H, W;
  const void* in;
  Layout from;
};

struct WarpArgs {
  Transform transform;
  const void* weights;  // (B, E) in the accumulate type, or null
  int64_t weight_b, weight_e;
  const int64_t* element;  // act: (B,)
  int64_t element_b;
  void* out;
  Layout to;
};

void orbit(const WarpArgs& args, Stream stream);
void act(const WarpArgs& args, Stream stream);
void orbit_average(const WarpArgs& args, Stream stream);

// Parts of an image that blocks sum, runs of its tiles: as few as keep a GPU busy.
struct Parts {
  int64_t tiles, count;  // of a part; of an image

  Parts() = default;
  Parts(const Tiling& t, int64_t B) {
    constexpr int64_t kBlocks = 2048;
    tiles = B < kBlocks ? ceil_div(t.tiles() * B, kBlocks) : t.tiles();
    count = ceil_div(t.tiles(), tiles);
  }
};

struct InnerArgs {
  Transform transform;  // of u
  const void* other;    // v
  Layout other_from;
  Parts parts;
  void* partial;  // (parts, B, E) in the accumulate type
};

void orbit_inner(const InnerArgs& args, Stream stream);

struct AngleArgs {
  Transform transform;  // of x; only its rotations
  int32_t turns;
  const int64_t* element;  // (B,)
  int64_t element_b;
  const void *image, *grad;
  Layout image_from, grad_from;
  Parts parts;
  void* partial;  // (parts, B, 2) in the accumulate type
};

void angle_inner(const AngleArgs& args, Stream stream);

}  // namespace equifast::cuda
