// The weight gradient of the direct convolution. As conv2d.cpp, this file is compiled with contraction to fused
// multiply-add.
#include <utility>

#include "cpu/kernels/channel_block.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

// How many sums fit the registers: those of kTapRows rows of up to kMaxWidth taps, for kTapLanes registers of channels,
// beside kGrads gradients.
#if defined(__AVX512F__)
constexpr int kTapRows = 3, kTapLanes = 1, kGrads = 4;
#else
constexpr int kTapRows = 1, kTapLanes = 2, kGrads = 1;
#endif
static_assert(kLanes % kTapLanes == 0);

// The gradients (rows, W', kBlock) of the rows [i, i + rows) of a block of channels. They are copied to `scratch`
// unless they lie so already.
const float* block_of(const Conv2d& k, const float* grad, int64_t first, int64_t i, int64_t rows, float* scratch) {
  const int64_t channels = smaller(kBlock, k.out_channels - first), n = rows * k.out_w;
  if (!k.channels_last) {
    const int64_t plane = k.out_h * k.out_w;
    planes_to_pixels(grad + first * plane + i * k.out_w, plane, n, channels, scratch);
    return scratch;
  }
  const float* pixels = grad + i * k.out_w * k.out_channels + first;
  if (k.out_channels == kBlock) return pixels;
  if (channels < kBlock) std::memset(scratch, 0, n * kBlock * sizeof(float));
  copy_pixels(pixels, k.out_channels, n, channels, scratch, kBlock);
  return scratch;
}

// Adds n pixels (n, kBlock) to `total`, (kBlock,). Several sums run side by side, since each waits for itself.
void add_pixels(const float* pixels, int64_t n, float* total) {
  constexpr int kSums = 4;
  Vector sum[kSums][kLanes] = {};
  const Vector* from = reinterpret_cast<const Vector*>(pixels);
  int64_t j = 0;
  for (; j + kSums <= n; j += kSums)
#pragma GCC unroll 4
    for (int s = 0; s < kSums; ++s)
#pragma GCC unroll 4
      for (int l = 0; l < kLanes; ++l) sum[s][l] += from[(j + s) * kLanes + l];
  for (; j < n; ++j)
    for (int l = 0; l < kLanes; ++l) sum[0][l] += from[j * kLanes + l];
  for (int l = 0; l < kLanes; ++l)
    reinterpret_cast<Vector*>(total)[l] += (sum[0][l] + sum[1][l]) + (sum[2][l] + sum[3][l]);
}

// Adds to the sums of kRows × kColumns neighbouring taps their products with kCount neighbouring gradients. kStride is
// the horizontal stride, or 0 for one that is known at run time only.
template <int kRows, int kColumns, int kStride, int kCount>
inline void add_products(const float* const* from, const Vector* grad, Vector (*sum)[kTapLanes]) {
  Vector g[kCount][kTapLanes];
#pragma GCC unroll 4
  for (int j = 0; j < kCount; ++j)
#pragma GCC unroll 2
    for (int l = 0; l < kTapLanes; ++l) g[j][l] = grad[j * kLanes + l];
#if defined(__AVX512F__)
  // Each pixel of the image is loaded once for all gradients that meet it.
  constexpr int kReads = kStride * (kCount - 1) + kColumns;
#pragma GCC unroll 16
  for (int x = 0; x < kReads; ++x)
#pragma GCC unroll 3
    for (int r = 0; r < kRows; ++r) {
      const Vector pixel = shared_pixel(from[r] + x);
#pragma GCC unroll 4
      for (int j = 0; j < kCount; ++j)
        if (const int t = x - j * kStride; t >= 0 && t < kColumns) sum[r * kColumns + t][0] += g[j][0] * pixel;
    }
#else
#pragma GCC unroll 28
  for (int t = 0; t < kRows * kColumns; ++t)
#pragma GCC unroll 2
    for (int l = 0; l < kTapLanes; ++l) sum[t][l] += g[0][l] * from[t / kColumns][t % kColumns];
#endif
}

// The same for `rows` rows of gradients, (rows, W', kBlock).
template <int kRows, int kColumns, int kStride>
void taps(const Conv2d& k, const float* image, const float* grad, int64_t rows, float* sums) {
  constexpr int kCount = kStride ? kGrads : 1;
  const int64_t stride = kStride ? kStride : k.stride_w, down = k.dilation_h * k.W;
  for (int first = 0; first < kLanes; first += kTapLanes) {
    Vector* to = reinterpret_cast<Vector*>(sums) + first;
    Vector sum[kRows * kColumns][kTapLanes];
#pragma GCC unroll 28
    for (int t = 0; t < kRows * kColumns; ++t)
#pragma GCC unroll 2
      for (int l = 0; l < kTapLanes; ++l) sum[t][l] = to[t * kLanes + l];
    const Vector* g = reinterpret_cast<const Vector*>(grad) + first;
    for (int64_t i = 0; i < rows; ++i) {
      const float* from[kRows];
#pragma GCC unroll 3
      for (int r = 0; r < kRows; ++r) from[r] = image + i * k.stride_h * k.W + r * down;
      int64_t j = 0;
      for (; j + kCount <= k.out_w; j += kCount, g += kCount * kLanes) {
        add_products<kRows, kColumns, kStride, kCount>(from, g, sum);
#pragma GCC unroll 3
        for (int r = 0; r < kRows; ++r) from[r] += kCount * stride;
      }
      for (; j < k.out_w; ++j, g += kLanes) {
        add_products<kRows, kColumns, kStride, 1>(from, g, sum);
#pragma GCC unroll 3
        for (int r = 0; r < kRows; ++r) from[r] += stride;
      }
    }
#pragma GCC unroll 28
    for (int t = 0; t < kRows * kColumns; ++t)
#pragma GCC unroll 2
      for (int l = 0; l < kTapLanes; ++l) to[t * kLanes + l] = sum[t][l];
  }
}

using Taps = void (*)(const Conv2d&, const float*, const float*, int64_t, float*);
// By rows, then columns; both begin at 1.
struct TapsOfStride {
  Taps run[kTapRows][kMaxWidth];
};
template <int kRows, int kStride, int... w>
constexpr void list_taps(Taps* run, std::integer_sequence<int, w...>) {
  ((run[w] = taps<kRows, w + 1, kStride>), ...);
}
template <int kStride, int... r>
constexpr TapsOfStride taps_of(std::integer_sequence<int, r...>) {
  TapsOfStride all = {};
  (list_taps<r + 1, kStride>(all.run[r], std::make_integer_sequence<int, kMaxWidth>()), ...);
  return all;
}
constexpr auto kRowCounts = std::make_integer_sequence<int, kTapRows>();
constexpr TapsOfStride kTaps[] = {taps_of<0>(kRowCounts), taps_of<1>(kRowCounts), taps_of<2>(kRowCounts)};

}  // namespace

// Adds the gradients of weight to `weight`, (blocks, C, kernel_h, kernel_w, kBlock), and of bias to `bias`,
// (blocks, kBlock). scratch: of (grad_rows, W', kBlock).
void conv2d_grad_weight(const Conv2d& k, const float* image, const float* grad, float* scratch, float* weight,
                        float* bias) {
  const TapsOfStride& any = kTaps[k.stride_w <= 2 ? k.stride_w : 0];
  for (int64_t block = 0; block < k.blocks(); ++block)
    for (int64_t i = 0; i < k.out_h; i += k.grad_rows()) {
      const int64_t grads = smaller(k.grad_rows(), k.out_h - i);
      const float* g = block_of(k, grad, block * kBlock, i, grads, scratch);
      add_pixels(g, grads * k.out_w, bias + block * kBlock);
      float* to = weight + block * k.taps() * kBlock;
      for (int64_t c = 0; c < k.C; ++c)
        for (int64_t r = 0; r < k.kernel_h; r += kTapRows) {
          const int64_t rows = smaller(kTapRows, k.kernel_h - r);
          const float* from = image + (c * k.H + i * k.stride_h + r * k.dilation_h) * k.W;
          any.run[rows - 1][k.kernel_w - 1](k, from, g, grads, to);
          to += rows * k.kernel_w * kBlock;
        }
    }
}

}  // namespace equifast::cpu::EQUIFAST_ISA
