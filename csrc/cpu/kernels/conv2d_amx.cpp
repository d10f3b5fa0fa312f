// The direct convolution of bfloat16 images by tiles of AMX. For each member of an orbit:
//   1. the channels are interleaved, and zeros put around them (fill_frame);
//   2. for each row of the image, what each output of a row reads of it is copied to a run of its own (fill_runs).
//   Tiles
//      could be loaded from the frame too, but most of their rows would cross cache lines, which took eight times as
//      long;
//   3. for each row of outputs, tiles of runs are multiplied by tiles of weights (sum_tiles);
//   4. the sums are activated, rounded and stored (convolve_row).
// A row of the image is copied once for all rows of outputs that read it. conv2d_tiles.h has the layouts.
#include "cpu/kernels/conv2d_amx.h"

#ifdef EQUIFAST_AMX
#include "cpu/kernels/activate.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

// Tiles of up to kTileRows outputs that are summed at the same time. They share the tile of weights.
constexpr int64_t kTiles = 3;

// What the processor reads to configure its tiles.
struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 to 2 hold sums, (pixels, kBlock); tiles 3 to 5 pixels, (pixels, kRun); tile 6 weights, (kRun / 2, kBlock, 2).
Configuration configuration_of(int64_t pixels) {
  Configuration c;
  for (int tile = 0; tile < 7; ++tile) {
    c.row_bytes[tile] = 64;
    c.rows[tile] = tile < 6 ? pixels : kRun / 2;
  }
  return c;
}

// Interleaves the channels of `member`, (C, rows, columns), to pixels inside the frame, whose rows are `width` pixels
// long. The frame around them stays as it is.
template <class Pixel>
void fill_frame(const uint16_t* member, int64_t C, int64_t rows, int64_t columns, int64_t width, Pixel* frame) {
  const int64_t plane = rows * columns;
  for (int64_t i = 0; i < rows; ++i, member += columns, frame += width) {
    const auto channel = [=](int64_t c, int64_t j) { return static_cast<Pixel>(member[c * plane + j]); };
    for (int64_t j = 0; j < columns; ++j) {
      Pixel pixel = channel(0, j);
      if constexpr (sizeof(Pixel) > 2) pixel |= channel(1, j) << 16;
      if constexpr (sizeof(Pixel) > 4) {
        pixel |= channel(2, j) << 32;
        if (C > 3) pixel |= channel(3, j) << 48;
      }
      frame[j] = pixel;
    }
  }
}

// Copies what every output of a row reads of one row of the frame: from (W) pixels to (runs, W', kRun) values.
template <class Pixel>
void fill_runs(const Conv2dTiles& t, const Pixel* frame, uint16_t* to) {
  const Conv2d& k = t.conv;
  for (int64_t first = 0; first < k.kernel_w; first += t.run_pixels()) {
    const int64_t n = smaller(t.run_pixels(), k.kernel_w - first);
    const __mmask32 mask = (uint64_t(1) << n * sizeof(Pixel) / 2) - 1;
    for (int64_t j = 0; j < k.out_w; ++j, to += kRun) {
      const Pixel* from = frame + j * k.stride_w + first * k.dilation_w;
      if (k.dilation_w == 1) {
        _mm512_store_si512(to, _mm512_maskz_loadu_epi16(mask, from));
        continue;
      }
      std::memset(to, 0, kRun * sizeof(uint16_t));
      for (int64_t p = 0; p < n; ++p) reinterpret_cast<Pixel*>(to)[p] = from[p * k.dilation_w];
    }
  }
}

// Calls f(Pixel{}) with the integer that holds the channels of a pixel.
template <class F>
void visit_pixel(int64_t channels, F f) {
  switch (pixel_values(channels)) {
    case 1: return f(uint16_t{});
    case 2: return f(uint32_t{});
    default: return f(uint64_t{});
  }
}

// Sums n ≤ kTiles tiles of outputs of row i, which start at columns j[0] to j[n − 1], to `row`, (W', kBlock).
__attribute__((target("amx-tile,amx-bf16"))) void sum_tiles(const Conv2dTiles& t, const uint16_t* runs, int64_t i,
                                                            const int64_t* j, int64_t n, const uint16_t* weight,
                                                            const float* bias, float* row) {
  const Conv2d& k = t.conv;
  constexpr int64_t kStep = 64;  // bytes between the rows of every tile in memory
  const int64_t first = j[0], second = j[n > 1 ? 1 : 0], third = j[n > 2 ? 2 : 0];
  // All rows of a tile of sums start from the same row of biases.
  _tile_loadd(0, bias, 0);
  if (n > 1) _tile_loadd(1, bias, 0);
  if (n > 2) _tile_loadd(2, bias, 0);
  for (int64_t r = 0; r < k.kernel_h; ++r) {
    const int64_t slot = (i * k.stride_h + r * k.dilation_h) % t.span();
    for (int64_t run = 0; run < t.runs(); ++run, weight += kRun * kBlock) {
      const uint16_t* from = runs + (slot * t.runs() + run) * k.out_w * kRun;
      _tile_loadd(6, weight, kStep);
      _tile_loadd(3, from + first * kRun, kStep);
      _tile_dpbf16ps(0, 3, 6);
      if (n > 1) {
        _tile_loadd(4, from + second * kRun, kStep);
        _tile_dpbf16ps(1, 4, 6);
      }
      if (n > 2) {
        _tile_loadd(5, from + third * kRun, kStep);
        _tile_dpbf16ps(2, 5, 6);
      }
    }
  }
  _tile_stored(0, row + first * kBlock, kStep);
  if (n > 1) _tile_stored(1, row + second * kBlock, kStep);
  if (n > 2) _tile_stored(2, row + third * kBlock, kStep);
}

// Rounds n blocks of sums. Subnormal numbers become zero, as they are to tiles.
__attribute__((target("avx512bf16"))) void narrow_blocks(const float* sums, int64_t n, uint16_t* out) {
  static_assert(kBlock == 16);
  for (int64_t k = 0; k < n * kBlock; k += kBlock) {
    const __m256bh narrow = _mm512_cvtneps_pbh(_mm512_load_ps(sums + k));
    std::memcpy(out + k, &narrow, sizeof narrow);
  }
}

// Copies row i of outputs, (W', kBlock), to its place in the first `channels` planes at `out`.
void store_planes(const Conv2d& k, const uint16_t* row, int64_t channels, int64_t i, uint16_t* out) {
  using T = Tile<uint16_t>;
  const int64_t plane = k.out_h * k.out_w;
  uint16_t* to = out + i * k.out_w;
  static_assert(T::K == kBlock);
  if (channels == kBlock && k.out_w >= T::K) {
    for (int64_t tile = 0; tile < k.out_w; tile += T::K) {
      const int64_t j = smaller(tile, k.out_w - T::K);
      T::transpose(row + j * kBlock, kBlock, to + j, plane);
    }
    return;
  }
  for (int64_t j = 0; j < k.out_w; ++j)
    for (int64_t c = 0; c < channels; ++c) to[c * plane + j] = row[j * kBlock + c];
}

// Convolves one row of outputs, whose runs are in `scratch`.
void convolve_row(const Conv2dTiles& t, int64_t i, int64_t tiles, int64_t pixels, const TileScratch& scratch,
                  uint16_t* out) {
  const Conv2d& k = t.conv;
  for (int64_t block = 0; block < k.blocks(); ++block) {
    const int64_t first = block * kBlock, channels = smaller(kBlock, k.out_channels - first);
    for (int64_t tile = 0; tile < tiles; tile += kTiles) {
      // All tiles have as many pixels. The last moves back to fit, and computes some of them a second time.
      int64_t j[kTiles];
      for (int64_t n = 0; n < kTiles; ++n) j[n] = smaller((tile + n) * pixels, k.out_w - pixels);
      sum_tiles(t, scratch.runs, i, j, smaller(kTiles, tiles - tile), t.weight + block * t.block_values(),
                k.bias + first, scratch.row);
    }
    activate(k.activation, reinterpret_cast<Vector*>(scratch.row), k.out_w * kLanes);
    const bool whole = k.channels_last && k.out_channels == kBlock;
    uint16_t* narrow = whole ? out + i * k.out_w * kBlock : scratch.narrow;
    narrow_blocks(scratch.row, k.out_w, narrow);
    if (whole) continue;
    if (!k.channels_last) {
      store_planes(k, narrow, channels, i, out + first * k.out_h * k.out_w);
      continue;
    }
    for (int64_t j = 0; j < k.out_w; ++j)
      std::memcpy(out + (i * k.out_w + j) * k.out_channels + first, narrow + j * kBlock, channels * sizeof(uint16_t));
  }
}

}  // namespace

__attribute__((target("amx-tile,amx-bf16"))) void conv2d_amx(const Conv2dTiles& t, const uint16_t* member,
                                                             const TileScratch& scratch, uint16_t* out) {
  const Conv2d& k = t.conv;
  const int64_t tiles = (k.out_w + kTileRows - 1) / kTileRows, pixels = (k.out_w + tiles - 1) / tiles;
  const int64_t H = k.H - 2 * t.padding_h, W = k.W - 2 * t.padding_w;
  const Configuration configuration = configuration_of(pixels);
  _tile_loadconfig(&configuration);
  visit_pixel(k.C, [&](auto pixel) {
    using Pixel = decltype(pixel);
    Pixel* frame = reinterpret_cast<Pixel*>(scratch.frame);
    fill_frame(member, k.C, H, W, k.W, frame + t.padding_h * k.W + t.padding_w);
    int64_t filled = 0;
    for (int64_t i = 0; i < k.out_h; ++i) {
      const int64_t end = i * k.stride_h + t.span();
      for (filled = i * k.stride_h > filled ? i * k.stride_h : filled; filled < end; ++filled)
        fill_runs(t, frame + filled * k.W, scratch.runs + filled % t.span() * t.runs() * k.out_w * kRun);
      // Compilers don't know that loads of tiles read memory.
      asm volatile("" ::: "memory");
      convolve_row(t, i, tiles, pixels, scratch, out);
    }
  });
  _tile_release();
}

}  // namespace equifast::cpu::EQUIFAST_ISA
#endif
