// The direct convolution of bfloat16 images on processors with AMX.
#pragma once

#include "cpu/kernels/conv2d_tiles.h"

#if defined(__AVX512F__) && defined(__linux__)
#define EQUIFAST_AMX
#endif

namespace equifast::cpu::EQUIFAST_ISA {

// Tiles of up to kTileRows outputs that are summed at the same time. They share the tile of weights.
constexpr int64_t kTiles = 4;

// Scratch memory of conv2d_amx.
struct TileScratch {
  uint16_t* copies;  // copied_values()
  float* sums;       // (sum_rows, W', kBlock)
  uint16_t* narrow;  // likewise
};

// Where outputs are stored. That of channel c at row i and column j is data[i·row + j·column + c·channel]. Either the
// channels of an output are neighbours, or all outputs of a channel.
struct TileOutput {
  uint16_t* data;
  int64_t row, column, channel;
};

// Rows of outputs that are summed at a time.
inline int64_t sum_rows(const Conv2dTiles& t) {
  const int64_t tiles = (t.conv.out_w + kTileRows - 1) / kTileRows;
  if (!t.reads_frame() || tiles >= kTiles) return 1;
  return kTiles / tiles < t.conv.out_h ? kTiles / tiles : t.conv.out_h;
}

// Copies `member`, contiguous (C, H, W) without its padding, into the frame. What is around it stays as it is.
void fill_frame(const Conv2dTiles&, const uint16_t* member, uint16_t* frame);

// Convolves what is in the frame.
void conv2d_amx(const Conv2dTiles&, const uint16_t* frame, const TileScratch&, const TileOutput&);

}  // namespace equifast::cpu::EQUIFAST_ISA
