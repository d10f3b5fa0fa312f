// The direct convolution. This file and conv2d_grad_weight.cpp are compiled with contraction to fused multiply-add: the
// sums are long, and every member of an orbit is summed in the same order.
#include <utility>

#include "cpu/kernels/activate.h"
#include "cpu/kernels/channel_block.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

// How many sums fit the registers: those of kPixels pixels, beside the weight.
#if defined(__AVX512F__)
constexpr int kPixels = 28;
#elif defined(__AVX2__)
constexpr int kPixels = 6;
#else
constexpr int kPixels = 3;
#endif

// Computes neighbouring outputs of one block of channels, to row (P, kBlock).
using Pixels = void (*)(const Conv2d&, const float* image, const float* weight, const float* bias, float* row);

// A convolution of P pixels in any geometry, tap by tap. kStride is the horizontal stride, or 0 for one that is known
// at run time only.
template <int P, int kStride>
void pixels(const Conv2d& k, const float* image, const float* weight, const float* bias, float* row) {
  Vector sum[P][kLanes];
  const int64_t stride = kStride ? kStride : k.stride_w;
  const Vector* start = reinterpret_cast<const Vector*>(bias);
#pragma GCC unroll 28
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int l = 0; l < kLanes; ++l) sum[p][l] = start[l];
  for (int64_t c = 0; c < k.C; ++c)
    for (int64_t i = 0; i < k.kernel_h; ++i) {
      const float* from = image + (c * k.H + i * k.dilation_h) * k.W;
      for (int64_t j = 0; j < k.kernel_w; ++j, from += k.dilation_w, weight += kBlock) {
        const Vector* w = reinterpret_cast<const Vector*>(weight);
#pragma GCC unroll 28
        for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
          for (int l = 0; l < kLanes; ++l) sum[p][l] += w[l] * from[p * stride];
      }
    }
#pragma GCC unroll 28
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int l = 0; l < kLanes; ++l) reinterpret_cast<Vector*>(row)[p * kLanes + l] = sum[p][l];
}

// Functions for 1, 2, … pixels.
template <int kCount>
struct Tiles {
  Pixels run[kCount];
};
template <int kStride, int... p>
constexpr auto tiles_of(std::integer_sequence<int, p...>) {
  return Tiles<sizeof...(p)>{{pixels<p + 1, kStride>...}};
}
constexpr auto kPixelCounts = std::make_integer_sequence<int, kPixels>();
constexpr Tiles<kPixels> kTiles[] = {tiles_of<0>(kPixelCounts), tiles_of<1>(kPixelCounts), tiles_of<2>(kPixelCounts)};

#if defined(__AVX512F__)
// The sums of kSharingPixels pixels fit the registers beside a row of kMaxWidth taps and two pixels of the image.
constexpr int kSharingPixels = 23;

// The same for a kernel of kColumns columns, undilated, whose pixels of the image are each loaded once for all outputs
// that read them. It took 0.57 of the time (7×7, stride 2).
template <int P, int kStride, int kColumns>
void sharing_pixels(const Conv2d& k, const float* image, const float* weight, const float* bias, float* row) {
  Vector sum[P];
#pragma GCC unroll 28
  for (int p = 0; p < P; ++p) sum[p] = *reinterpret_cast<const Vector*>(bias);
  for (int64_t c = 0; c < k.C; ++c)
    for (int64_t i = 0; i < k.kernel_h; ++i, weight += kColumns * kBlock) {
      const float* from = image + (c * k.H + i * k.dilation_h) * k.W;
      Vector w[kColumns];
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) w[j] = reinterpret_cast<const Vector*>(weight)[j];
      // Both halves of the row by turns, so that a sum has time until its next term.
      constexpr int kReads = kStride * (P - 1) + kColumns, kHalf = (kReads + 1) / 2;
#pragma GCC unroll 64
      for (int step = 0; step < kHalf; ++step)
#pragma GCC unroll 2
        for (int x = step; x < kReads; x += kHalf) {
          const Vector pixel = shared_pixel(from + x);
#pragma GCC unroll 8
          for (int j = x % kStride; j < kColumns; j += kStride)
            if (const int p = (x - j) / kStride; x >= j && p < P) sum[p] += w[j] * pixel;
        }
    }
#pragma GCC unroll 28
  for (int p = 0; p < P; ++p) reinterpret_cast<Vector*>(row)[p] = sum[p];
}

template <int kStride, int kColumns, int... p>
constexpr auto sharing_tiles_of(std::integer_sequence<int, p...>) {
  return Tiles<sizeof...(p)>{{sharing_pixels<p + 1, kStride, kColumns>...}};
}
constexpr auto kSharing = std::make_integer_sequence<int, kSharingPixels>();
// By stride, 1 or 2, and by columns, 3, 5 or 7.
constexpr Tiles<kSharingPixels> kSharingTiles[2][3] = {
    {sharing_tiles_of<1, 3>(kSharing), sharing_tiles_of<1, 5>(kSharing), sharing_tiles_of<1, 7>(kSharing)},
    {sharing_tiles_of<2, 3>(kSharing), sharing_tiles_of<2, 5>(kSharing), sharing_tiles_of<2, 7>(kSharing)}};
#endif

// The function that computes tiles of a row, and how many pixels each tile has.
struct Tiling {
  Pixels run;
  int64_t tiles, width;
};

template <int kCount>
Tiling tiling_of(const Tiles<kCount>& tiles, int64_t n) {
  const int64_t count = (n + kCount - 1) / kCount, width = (n + count - 1) / count;
  return {tiles.run[width - 1], count, width};
}

Tiling tiling_of(const Conv2d& k) {
#if defined(__AVX512F__)
  const bool odd = k.kernel_w == 3 || k.kernel_w == 5 || k.kernel_w == 7;
  if (odd && k.dilation_w == 1 && k.stride_w <= 2)
    return tiling_of(kSharingTiles[k.stride_w - 1][k.kernel_w / 2 - 1], k.out_w);
#endif
  return tiling_of(kTiles[k.stride_w <= 2 ? k.stride_w : 0], k.out_w);
}

}  // namespace

// Convolves `image`, contiguous (C, H, W), to `out`, (C_out, H', W') by the steps of the layer, or (H', W', C_out).
// row: scratch of (W', kBlock).
void conv2d(const Conv2d& k, const float* image, float* row, float* out) {
  const auto [run, tiles, width] = tiling_of(k);
  const bool in_place = k.channels_last && k.out_channels == kBlock;
  for (int64_t block = 0; block < k.blocks(); ++block) {
    const float* weight = k.weight + block * k.taps() * kBlock;
    const int64_t first = block * kBlock, channels = smaller(kBlock, k.out_channels - first);
    for (int64_t i = 0; i < k.out_h; ++i) {
      float* const pixels = out + i * k.out_w * k.out_channels + first;  // if channels_last
      float* const to = in_place ? pixels : row;
      // All tiles have one width. The last moves back to fit, and computes some pixels a second time.
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t j = smaller(tile * width, k.out_w - width);
        run(k, image + i * k.stride_h * k.W + j * k.stride_w, weight, k.bias + first, to + j * kBlock);
      }
      activate(k.activation, reinterpret_cast<Vector*>(to), k.out_w * kLanes);
      if (!k.channels_last)
        pixels_to_planes(row, k.out_w, channels, out + first * k.plane_step + i * k.row_step, k.plane_step);
      else if (!in_place) copy_pixels(row, kBlock, k.out_w, channels, pixels, k.out_channels);
    }
  }
}

}  // namespace equifast::cpu::EQUIFAST_ISA
