// The direct convolution of bfloat16 images on processors with AMX.
#pragma once

#include "cpu/kernels/conv2d_tiles.h"

#if defined(__AVX512F__) && defined(__linux__)
#define EQUIFAST_AMX
#endif

namespace equifast::cpu::EQUIFAST_ISA {

// Scratch memory of conv2d_amx.
struct TileScratch {
  uint16_t* frame;   // (H, W, pixel values): the image with its padding, which is zero and stays so
  uint16_t* runs;    // (span, runs, W', kRun): a ring of rows
  float* row;        // (W', kBlock)
  uint16_t* narrow;  // likewise
};

// Convolves `member`, contiguous (C, H, W) without its padding, to `out`, (C_out, H', W') or (H', W', C_out).
void conv2d_amx(const Conv2dTiles&, const uint16_t* member, const TileScratch&, uint16_t* out);

}  // namespace equifast::cpu::EQUIFAST_ISA
