// The direct convolution and its weight gradient. This is the one file that is compiled with contraction to fused
// multiply-add: its sums are long, and every member of an orbit is summed in the same order.
#include "cpu/kernels/conv2d.h"

#include <utility>

#include "cpu/kernels/permute.h"
#include "cpu/kernels/pixels.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

// A block of kBlock output channels takes kLanes registers. GCC would pass generic vectors that are wider through
// memory.
constexpr int kLanes = kBlock * 4 / kVectorBytes;
typedef float Vector __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));

// How many sums fit the registers. Forward: the sums of kPixels pixels, beside the weight. Weight gradient: the sums of
// kTapRows rows of up to kMaxWidth taps, for kTapLanes registers of channels.
#if defined(__AVX512F__)
constexpr int kPixels = 28, kTapRows = 4, kTapLanes = 1;
#elif defined(__AVX2__)
constexpr int kPixels = 6, kTapRows = 1, kTapLanes = 2;
#else
constexpr int kPixels = 3, kTapRows = 1, kTapLanes = 2;
#endif
static_assert(kLanes % kTapLanes == 0);

// exp by a polynomial on [−½·ln 2, ½·ln 2] and a power of two.
inline Vector exponential(Vector x) {
  constexpr float kLog2e = 1.44269504f, kHigh = 0.693359375f, kLow = -2.12194440e-4f, kRound = 12582912.0f;
  x = x < -87.0f ? Vector{} - 87.0f : x;
  x = x > 88.0f ? Vector{} + 88.0f : x;
  const Vector shifted = x * kLog2e + kRound, n = shifted - kRound;
  const Vector r = (x - n * kHigh) - n * kLow;
  Vector p = r * (1 / 5040.f) + (1 / 720.f);
  p = p * r + (1 / 120.f);
  p = p * r + (1 / 24.f);
  p = p * r + (1 / 6.f);
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const Bits scale = (__builtin_convertvector(n, Bits) + 127) << 23;
  return p * reinterpret_cast<const Vector&>(scale);
}

// erf by a rational function of x² on [−4, 4]: a minimax fit of our own, within 5e-7.
inline Vector error_function(Vector x) {
  x = x < -4.0f ? Vector{} - 4.0f : x;
  x = x > 4.0f ? Vector{} + 4.0f : x;
  const Vector t = x * x;
  Vector p = t * 1.986765710e-06f + 2.845618874e-04f;
  p = p * t + 3.883265425e-03f;
  p = p * t + 5.310149863e-02f;
  p = p * t + 1.935435683e-01f;
  p = p * t + 1.128379107e+00f;
  Vector q = t * 3.741978799e-05f + 1.185547793e-03f;
  q = q * t + 1.520709693e-02f;
  q = q * t + 1.153493375e-01f;
  q = q * t + 5.048560500e-01f;
  q = q * t + 1.0f;
  return x * p / q;
}

// Applies the activation in place to n vectors.
void activate(Activation activation, Vector* row, int64_t n) {
  switch (activation) {
    case Activation::none: return;
    case Activation::relu:
      for (int64_t j = 0; j < n; ++j) row[j] = row[j] < 0.0f ? Vector{} : row[j];
      return;
    case Activation::gelu:
      for (int64_t j = 0; j < n; ++j) row[j] = 0.5f * row[j] * (1.0f + error_function(row[j] * 0.70710678f));
      return;
    case Activation::silu:
      for (int64_t j = 0; j < n; ++j) row[j] = row[j] / (1.0f + exponential(-row[j]));
      return;
  }
}

// Computes P neighbouring outputs of one block of channels, to row (P, kBlock). kStride is the horizontal stride, or 0
// for one that is known at run time only.
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

using Pixels = void (*)(const Conv2d&, const float*, const float*, const float*, float*);

struct Tiles {
  Pixels run[kPixels];
};
template <int kStride, int... p>
constexpr Tiles tiles_of(std::integer_sequence<int, p...>) {
  return {{pixels<p + 1, kStride>...}};
}
constexpr auto kPixelCounts = std::make_integer_sequence<int, kPixels>();
constexpr Tiles kTiles[] = {tiles_of<0>(kPixelCounts), tiles_of<1>(kPixelCounts), tiles_of<2>(kPixelCounts)};

// Copies one row of outputs (W', kBlock) to its place in planes (C_out, H', W').
void store_planes(const Conv2d& k, const float* row, int64_t channels, int64_t i, float* out) {
  const int64_t plane = k.out_h * k.out_w;
  constexpr int64_t K = Tile<uint32_t>::K;
  int64_t j = 0;
  if (channels == kBlock)
    for (; j + K <= k.out_w; j += K)
      for (int64_t c = 0; c < kBlock; c += K)
        Tile<uint32_t>::transpose(reinterpret_cast<const uint32_t*>(row + j * kBlock + c), kBlock,
                                  reinterpret_cast<uint32_t*>(out + c * plane + i * k.out_w + j), plane);
  for (; j < k.out_w; ++j)
    for (int64_t c = 0; c < channels; ++c) out[c * plane + i * k.out_w + j] = row[j * kBlock + c];
}

// Copies the other way: one row of planes (C_out, H', W'), or of (H', W', C_out), to (W', kBlock) with zeros past the
// last channel.
void load_row(const Conv2d& k, const float* grad, int64_t first, int64_t channels, int64_t i, float* row) {
  if (channels < kBlock) std::memset(row, 0, k.out_w * kBlock * sizeof(float));
  if (k.channels_last) {
    for (int64_t j = 0; j < k.out_w; ++j)
      std::memcpy(row + j * kBlock, grad + (i * k.out_w + j) * k.out_channels + first, channels * sizeof(float));
    return;
  }
  const int64_t plane = k.out_h * k.out_w;
  const float* from = grad + first * plane + i * k.out_w;
  constexpr int64_t K = Tile<uint32_t>::K;
  int64_t j = 0;
  if (channels == kBlock)
    for (; j + K <= k.out_w; j += K)
      for (int64_t c = 0; c < kBlock; c += K)
        Tile<uint32_t>::transpose(reinterpret_cast<const uint32_t*>(from + c * plane + j), plane,
                                  reinterpret_cast<uint32_t*>(row + j * kBlock + c), kBlock);
  for (; j < k.out_w; ++j)
    for (int64_t c = 0; c < channels; ++c) row[j * kBlock + c] = from[c * plane + j];
}

// Adds to the sums of kRows × kColumns neighbouring taps their products with one row of gradients (W', kBlock).
template <int kRows, int kColumns>
void taps(const Conv2d& k, const float* image, const float* row, float* sums) {
  const int64_t down = k.dilation_h * k.W;
  for (int first = 0; first < kLanes; first += kTapLanes) {
    Vector* to = reinterpret_cast<Vector*>(sums) + first;
    Vector sum[kRows * kColumns][kTapLanes];
#pragma GCC unroll 28
    for (int t = 0; t < kRows * kColumns; ++t)
#pragma GCC unroll 2
      for (int l = 0; l < kTapLanes; ++l) sum[t][l] = to[t * kLanes + l];
    const float* from = image;
    for (int64_t j = 0; j < k.out_w; ++j, from += k.stride_w) {
      const Vector* g = reinterpret_cast<const Vector*>(row) + j * kLanes + first;
#pragma GCC unroll 28
      for (int t = 0; t < kRows * kColumns; ++t)
#pragma GCC unroll 2
        for (int l = 0; l < kTapLanes; ++l) sum[t][l] += g[l] * from[t / kColumns * down + t % kColumns];
    }
#pragma GCC unroll 28
    for (int t = 0; t < kRows * kColumns; ++t)
#pragma GCC unroll 2
      for (int l = 0; l < kTapLanes; ++l) to[t * kLanes + l] = sum[t][l];
  }
}

using Taps = void (*)(const Conv2d&, const float*, const float*, float*);
struct TapsOfWidth {
  Taps run[kTapRows];
};
template <int kColumns, int... r>
constexpr TapsOfWidth taps_of_width(std::integer_sequence<int, r...>) {
  return {{taps<r + 1, kColumns>...}};
}
template <int... w>
constexpr auto taps_of(std::integer_sequence<int, w...>) {
  struct {
    TapsOfWidth of[sizeof...(w)];
  } all = {{taps_of_width<w + 1>(std::make_integer_sequence<int, kTapRows>())...}};
  return all;
}
constexpr auto kTaps = taps_of(std::make_integer_sequence<int, kMaxWidth>());

}  // namespace

// Convolves `image`, contiguous (C, H, W), to `out`, (C_out, H', W') or (H', W', C_out). row: scratch of (W', kBlock).
void conv2d(const Conv2d& k, const float* image, float* row, float* out) {
  const Tiles& any = kTiles[k.stride_w <= 2 ? k.stride_w : 0];
  const int64_t tiles = (k.out_w + kPixels - 1) / kPixels, width = (k.out_w + tiles - 1) / tiles;
  for (int64_t block = 0; block < k.blocks(); ++block) {
    const float* weight = k.weight + block * k.taps() * kBlock;
    const int64_t first = block * kBlock, channels = smaller(kBlock, k.out_channels - first);
    for (int64_t i = 0; i < k.out_h; ++i) {
      // All tiles have one width. The last moves back to fit, and computes some pixels a second time.
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t j = smaller(tile * width, k.out_w - width);
        any.run[width - 1](k, image + i * k.stride_h * k.W + j * k.stride_w, weight, k.bias + first, row + j * kBlock);
      }
      activate(k.activation, reinterpret_cast<Vector*>(row), k.out_w * kLanes);
      if (!k.channels_last) {
        store_planes(k, row, channels, i, out + first * k.out_h * k.out_w);
        continue;
      }
      for (int64_t j = 0; j < k.out_w; ++j)
        std::memcpy(out + (i * k.out_w + j) * k.out_channels + first, row + j * kBlock, channels * sizeof(float));
    }
  }
}

// Adds the gradients of weight to `weight`, (blocks, C, kernel_h, kernel_w, kBlock), and of bias to `bias`,
// (blocks, kBlock).
void conv2d_grad_weight(const Conv2d& k, const float* image, const float* grad, float* row, float* weight,
                        float* bias) {
  for (int64_t block = 0; block < k.blocks(); ++block) {
    const int64_t first = block * kBlock, channels = smaller(kBlock, k.out_channels - first);
    Vector* total = reinterpret_cast<Vector*>(bias) + block * kLanes;
    for (int64_t i = 0; i < k.out_h; ++i) {
      load_row(k, grad, first, channels, i, row);
      for (int64_t j = 0; j < k.out_w; ++j)
        for (int l = 0; l < kLanes; ++l) total[l] += reinterpret_cast<const Vector*>(row)[j * kLanes + l];
      float* to = weight + block * k.taps() * kBlock;
      for (int64_t c = 0; c < k.C; ++c)
        for (int64_t r = 0; r < k.kernel_h; r += kTapRows) {
          const int64_t rows = smaller(kTapRows, k.kernel_h - r);
          const float* from = image + (c * k.H + i * k.stride_h + r * k.dilation_h) * k.W;
          kTaps.of[k.kernel_w - 1].run[rows - 1](k, from, row, to);
          to += rows * k.kernel_w * kBlock;
        }
    }
  }
}

}  // namespace equifast::cpu::EQUIFAST_ISA
