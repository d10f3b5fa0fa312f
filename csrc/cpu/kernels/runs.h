// How the runs of conv2d_tiles.h are made: channels interleaved to the pixels of a frame, and copies of what outputs
// read.
#pragma once

#include <utility>

#include "cpu/kernels/conv2d_tiles.h"
#include "cpu/kernels/permute.h"

namespace equifast::cpu {
namespace {

// A pixel of many channels.
template <int kValues>
struct Values {
  uint16_t values[kValues];
};

// Calls f(Pixel{}) with the type of a pixel.
template <class F>
void visit_pixel(int64_t values, F f) {
  switch (values) {
    case 1: return f(uint16_t{});
    case 2: return f(uint32_t{});
    case 4: return f(uint64_t{});
    case 8: return f(Values<8>{});
    case 16: return f(Values<16>{});
    default: return f(Values<32>{});
  }
}

// Interleaves n pixels of C channels, whose planes are `plane` apart.
template <class Pixel>
void interleave(const uint16_t* from, int64_t plane, int64_t C, int64_t n, Pixel* pixels) {
  using T = Tile<uint16_t>;
  constexpr int64_t kStep = sizeof(Pixel) / sizeof(uint16_t);
  uint16_t* to = reinterpret_cast<uint16_t*>(pixels);
  int64_t c = 0;
  for (; c + T::K <= C && n >= T::K; c += T::K)
    for (int64_t tile = 0; tile < n; tile += T::K) {
      const int64_t j = smaller(tile, n - T::K);
      T::transpose(from + c * plane + j, plane, to + j * kStep + c, kStep);
    }
  // Four channels together, in an integer.
  if constexpr (kStep >= 4)
    for (; c < C; c += 4) {
      const int64_t channels = C - c;
      for (int64_t j = 0; j < n; ++j) {
        const uint16_t* const in = from + c * plane + j;
        uint64_t pixel = in[0];
        if (channels > 1) pixel |= uint64_t{in[plane]} << 16;
        if (channels > 2) pixel |= uint64_t{in[2 * plane]} << 32;
        if (channels > 3) pixel |= uint64_t{in[3 * plane]} << 48;
        std::memcpy(to + j * kStep + c, &pixel, sizeof pixel);
      }
    }
  for (; c < C; ++c)
    for (int64_t j = 0; j < n; ++j) to[j * kStep + c] = from[c * plane + j];
}

// Copies runs for the n outputs of a row, from cache line `line` on. That of each output starts kWords 32-bit words
// after the one before it, so that two neighbouring lines have it.
template <int kWords, size_t... q>
void align_runs(const uint16_t* line, int64_t n, __mmask32 mask, uint16_t* to, std::index_sequence<q...>) {
  __m512i low = _mm512_load_si512(line);
  for (; n > 0; n -= sizeof...(q), to += sizeof...(q) * kRun) {
    const __m512i high = _mm512_load_si512(line += kRun);
    const auto copy = [&](int64_t output, __m512i run) {
      if (output < n) _mm512_store_si512(to + output * kRun, _mm512_maskz_mov_epi16(mask, run));
    };
    (copy(q, _mm512_alignr_epi32(high, low, q * kWords)), ...);
    low = high;
  }
}

// Copies what every output of a row reads of one row of the frame: from (W) pixels to (runs, W', kRun) values.
template <class Pixel>
void copy_runs(const Conv2dTiles& t, const Pixel* row, uint16_t* to) {
  const Conv2d& k = t.conv;
  for (int64_t first = 0; first < k.kernel_w; first += t.run_pixels(), to += k.out_w * kRun) {
    const int64_t n = smaller(t.run_pixels(), k.kernel_w - first), step = k.stride_w * sizeof(Pixel);
    const __mmask32 mask = (uint64_t(1) << n * sizeof(Pixel) / 2) - 1;
    const Pixel* from = row + first * k.dilation_w;
    if (k.dilation_w > 1) {
      std::memset(to, 0, k.out_w * kRun * sizeof(uint16_t));
      for (int64_t j = 0; j < k.out_w; ++j, from += k.stride_w)
        for (int64_t p = 0; p < n; ++p) reinterpret_cast<Pixel*>(to + j * kRun)[p] = from[p * k.dilation_w];
    } else if (step == 8 || step == 16) {
      // Three channels at strides of 1 and 2, among others. It took half as long as loads that cross cache lines.
      const auto* line = reinterpret_cast<const uint16_t*>(from);
      if (step == 8) align_runs<2>(line, k.out_w, mask, to, std::make_index_sequence<8>());
      else align_runs<4>(line, k.out_w, mask, to, std::make_index_sequence<4>());
    } else {
      for (int64_t j = 0; j < k.out_w; ++j, from += k.stride_w)
        _mm512_store_si512(to + j * kRun, _mm512_maskz_loadu_epi16(mask, from));
    }
  }
}

// Where runs are: in the frame, or in the ring of copies. The first run that the output of column j reads of row i of
// the image is at start + i % rows · row + j · output.
struct Runs {
  const uint16_t* start;
  int64_t rows, row, output, step;  // step: from a run to the next
  int64_t whole, rest;              // runs of kRun values for each row of the kernel, and the values of the last one
};

Runs runs_of(const Conv2dTiles& t, const uint16_t* frame, const uint16_t* copies) {
  const Conv2d& k = t.conv;
  if (!t.reads_frame()) return {copies, t.span(), t.copy_row(), kRun, k.out_w * kRun, t.runs(), 0};
  const int64_t values = k.kernel_w * t.pixel_values();
  return {frame, k.H, t.frame_row(), k.stride_w * t.pixel_values(), kRun, values / kRun, values % kRun};
}

}  // namespace
}  // namespace equifast::cpu
