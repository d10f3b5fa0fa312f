// The direct convolution of bfloat16 images by tiles of AMX. For each member of an orbit, or each output of the layer
// before:
//   1. the channels are interleaved, with zeros around the image (fill_frame, or conv2d_amx of the layer before);
//   2. for each row of the image, what each output of a row reads of it is copied to a run of its own (copy_runs).
//      Where the frame has every run in a cache line of its own, tiles are loaded from there. Else most of their rows
//      would cross cache lines, which took eight times as long;
//   3. for a few rows of outputs, tiles of runs are multiplied by tiles of weights (sum_tiles);
//   4. the sums are activated, rounded and stored (convolve_rows).
// A row of the image is copied once for all rows of outputs that read it. conv2d_tiles.h has the layouts.
#include "cpu/kernels/conv2d_amx.h"

#ifdef EQUIFAST_AMX
#include "cpu/kernels/activate.h"
#include "cpu/kernels/runs.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

// What the processor reads to configure its tiles.
struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 to 3 hold sums, (pixels, kBlock); tile 4 pixels, (pixels, kRun); tile 5 weights, (kRun / 2, kBlock, 2).
// Tiles 6 and 7 hold pixels and weights of a run of `rest` values.
Configuration configuration_of(int64_t pixels, int64_t rest) {
  Configuration c;
  for (int tile = 0; tile < (rest ? 8 : 6); ++tile) {
    c.row_bytes[tile] = tile == 6 ? 2 * rest : 2 * kRun;
    c.rows[tile] = tile == 5 ? kRun / 2 : tile == 7 ? rest / 2 : pixels;
  }
  return c;
}

// The first output of a tile.
struct Place {
  int64_t i, j;
};

// Multiplies one run of each tile of outputs by the weights at `weight`, in tiles of these numbers: they have to be
// literals.
#define EQUIFAST_MULTIPLY(pixels, weights, offset)   \
  {                                                  \
    _tile_loadd(weights, weight, kStep);             \
    _tile_loadd(pixels, from[0] + (offset), step);   \
    _tile_dpbf16ps(0, pixels, weights);              \
    if (n > 1) {                                     \
      _tile_loadd(pixels, from[1] + (offset), step); \
      _tile_dpbf16ps(1, pixels, weights);            \
    }                                                \
    if (n > 2) {                                     \
      _tile_loadd(pixels, from[2] + (offset), step); \
      _tile_dpbf16ps(2, pixels, weights);            \
    }                                                \
    if (n > 3) {                                     \
      _tile_loadd(pixels, from[3] + (offset), step); \
      _tile_dpbf16ps(3, pixels, weights);            \
    }                                                \
  }

// Sums n ≤ kTiles tiles of outputs, each to sums[tile], (pixels, kBlock).
__attribute__((target("amx-tile,amx-bf16"))) void sum_tiles(const Conv2d& k, const Runs& runs, const Place* places,
                                                            int64_t n, const uint16_t* weight, const float* bias,
                                                            float* const* sums) {
  constexpr int64_t kStep = 64;  // bytes between the rows of tiles of weights and of sums
  const int64_t step = runs.output * sizeof(uint16_t);
  // All rows of a tile of sums start from the same row of biases.
  _tile_loadd(0, bias, 0);
  if (n > 1) _tile_loadd(1, bias, 0);
  if (n > 2) _tile_loadd(2, bias, 0);
  if (n > 3) _tile_loadd(3, bias, 0);
  for (int64_t r = 0; r < k.kernel_h; ++r) {
    const uint16_t* from[kTiles];
    for (int64_t tile = 0; tile < kTiles; ++tile) {
      const Place& p = places[tile < n ? tile : 0];
      from[tile] = runs.start + (p.i * k.stride_h + r * k.dilation_h) % runs.rows * runs.row + p.j * runs.output;
    }
    for (int64_t run = 0; run < runs.whole; ++run, weight += kRun * kBlock) EQUIFAST_MULTIPLY(4, 5, run * runs.step)
    if (runs.rest == 0) continue;
    EQUIFAST_MULTIPLY(6, 7, runs.whole * runs.step)
    weight += kRun * kBlock;
  }
  _tile_stored(0, sums[0], kStep);
  if (n > 1) _tile_stored(1, sums[1], kStep);
  if (n > 2) _tile_stored(2, sums[2], kStep);
  if (n > 3) _tile_stored(3, sums[3], kStep);
}

#undef EQUIFAST_MULTIPLY

// Rounds n blocks of sums. Subnormal numbers become zero, as they are to tiles.
__attribute__((target("avx512bf16"))) void narrow_blocks(const float* sums, int64_t n, uint16_t* out) {
  static_assert(kBlock == 16);
  for (int64_t k = 0; k < n * kBlock; k += kBlock) {
    const __m256bh narrow = _mm512_cvtneps_pbh(_mm512_load_ps(sums + k));
    std::memcpy(out + k, &narrow, sizeof narrow);
  }
}

// Copies n neighbouring outputs of a block, (n, kBlock), to the first `channels` planes at `out`.
void store_planes(const uint16_t* block, int64_t n, int64_t channels, int64_t plane, uint16_t* out) {
  using T = Tile<uint16_t>;
  static_assert(T::K == kBlock);
  if (channels == kBlock && n >= T::K) {
    for (int64_t tile = 0; tile < n; tile += T::K) {
      const int64_t j = smaller(tile, n - T::K);
      T::transpose(block + j * kBlock, kBlock, out + j, plane);
    }
    return;
  }
  for (int64_t j = 0; j < n; ++j)
    for (int64_t c = 0; c < channels; ++c) out[c * plane + j] = block[j * kBlock + c];
}

// Copies n neighbouring outputs of a block to pixels that are `step` values apart.
void store_pixels(const uint16_t* block, int64_t n, int64_t channels, int64_t step, uint16_t* out) {
  if (channels == kBlock) {
    for (int64_t j = 0; j < n; ++j) std::memcpy(out + j * step, block + j * kBlock, kBlock * sizeof(uint16_t));
    return;
  }
  for (int64_t j = 0; j < n; ++j) std::memcpy(out + j * step, block + j * kBlock, channels * sizeof(uint16_t));
}

// Convolves `count` rows of outputs from row `first_row` on. Their tiles all have `pixels` outputs.
void convolve_rows(const Conv2dTiles& t, const Runs& runs, int64_t first_row, int64_t count, int64_t pixels,
                   const TileScratch& scratch, const TileOutput& out) {
  const Conv2d& k = t.conv;
  const int64_t across = (k.out_w + pixels - 1) / pixels, tiles = count * across, n = count * k.out_w;
  const int64_t passes = (tiles + kTiles - 1) / kTiles, at_once = (tiles + passes - 1) / passes;
  for (int64_t block = 0; block < k.blocks(); ++block) {
    const int64_t first = block * kBlock, channels = smaller(kBlock, k.out_channels - first);
    for (int64_t start = 0; start < tiles; start += at_once) {
      Place places[kTiles];
      float* sums[kTiles];
      const int64_t summed = smaller(at_once, tiles - start);
      for (int64_t tile = 0; tile < summed; ++tile) {
        // The last tile of a row moves back to fit, and computes some outputs a second time.
        const int64_t i = (start + tile) / across, j = smaller((start + tile) % across * pixels, k.out_w - pixels);
        places[tile] = {first_row + i, j};
        sums[tile] = scratch.sums + (i * k.out_w + j) * kBlock;
      }
      sum_tiles(k, runs, places, summed, t.weight + block * t.block_values(), k.bias + first, sums);
    }
    activate(k.activation, reinterpret_cast<Vector*>(scratch.sums), n * kLanes);
    uint16_t* to = out.data + first_row * out.row + first * out.channel;
    if (out.column == kBlock && channels == kBlock) {
      for (int64_t i = 0; i < count; ++i) narrow_blocks(scratch.sums + i * k.out_w * kBlock, k.out_w, to + i * out.row);
      continue;
    }
    narrow_blocks(scratch.sums, n, scratch.narrow);
    if (out.column == 1) {  // then rows are neighbours too
      store_planes(scratch.narrow, n, channels, out.channel, to);
      continue;
    }
    for (int64_t i = 0; i < count; ++i)
      store_pixels(scratch.narrow + i * k.out_w * kBlock, k.out_w, channels, out.column, to + i * out.row);
  }
}

}  // namespace

void fill_frame(const Conv2dTiles& t, const uint16_t* member, uint16_t* frame) {
  const Conv2d& k = t.conv;
  const int64_t H = k.H - 2 * t.padding_h, W = k.W - 2 * t.padding_w;
  visit_pixel(t.pixel_values(), [&](auto pixel) {
    using Pixel = decltype(pixel);
    for (int64_t i = 0; i < H; ++i) {
      Pixel* row = reinterpret_cast<Pixel*>(frame + (t.padding_h + i) * t.frame_row());
      interleave(member + i * W, H * W, k.C, W, row + t.padding_w);
    }
  });
}

__attribute__((target("amx-tile"))) void conv2d_amx(const Conv2dTiles& t, const uint16_t* frame,
                                                    const TileScratch& scratch, const TileOutput& out) {
  const Conv2d& k = t.conv;
  const Runs runs = runs_of(t, frame, scratch.copies);
  const int64_t across = (k.out_w + kTileRows - 1) / kTileRows, pixels = (k.out_w + across - 1) / across;
  const int64_t rows = sum_rows(t);
  const Configuration configuration = configuration_of(pixels, runs.rest);
  _tile_loadconfig(&configuration);
  visit_pixel(t.pixel_values(), [&](auto pixel) {
    int64_t filled = t.reads_frame() ? k.H : 0;
    for (int64_t row = 0; row < k.out_h; row += rows) {
      const int64_t end = row * k.stride_h + t.span();
      for (filled = row * k.stride_h > filled ? row * k.stride_h : filled; filled < end; ++filled)
        copy_runs(t, reinterpret_cast<const decltype(pixel)*>(frame + filled * t.frame_row()),
                  scratch.copies + filled % t.span() * t.copy_row());
      // Compilers don't know that loads of tiles read memory.
      asm volatile("" ::: "memory");
      // The last rows move back to fit.
      convolve_rows(t, runs, smaller(row, k.out_h - rows), rows, pixels, scratch, out);
    }
  });
  _tile_release();
}

}  // namespace equifast::cpu::EQUIFAST_ISA
#endif
