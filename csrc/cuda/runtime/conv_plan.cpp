#include "cuda/runtime/conv_plan.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace equifast::cuda {
namespace {

// A block should take no more shared memory than this, so that a multiprocessor has room for several. On an H100, which
// has 228 KiB, that makes five blocks of the convolution and three of the weight gradient. Predicted, not measured.
constexpr int64_t kWantedBytes = 40 << 10, kWantedGradWeightBytes = 64 << 10;
// A tile is at most this many places wide.
constexpr int32_t kLog2MaxTileWidth = 4;
// The input gradient makes its cells large enough for this many columns of the product, of 16 that a narrow one has.
constexpr int32_t kMinColumns = 12;
// The weight gradient has about this many blocks for each multiprocessor, and a workspace of at most so many bytes.
constexpr int64_t kBlocksPerProcessor = 4, kMaxWorkspace = int64_t(64) << 20;

// The exponent of the smallest power of two that is at least n.
int32_t log2_ceil(int64_t n) {
  int32_t e = 0;
  while ((int64_t(1) << e) < n) ++e;
  return e;
}

[[noreturn]] void does_not_fit() {
  throw std::invalid_argument("orbit_conv2d: a row of the kernel does not fit in shared memory");
}

// The shared memory of a block: taps and the tile; afterwards, in the same place, the sums of the product.
int64_t conv_shared_bytes(const ProductShape& shape, const ConvArgs& a) {
  const TileLayout& t = a.tile;
  const int64_t taps = 8 * t.steps * sizeof(WordTap), tile = t.size() * shape.word.word_bytes;
  return std::max<int64_t>(taps + tile, int64_t(shape.columns) * sums_pitch(shape.rows) * shape.word.sum_bytes);
}

int64_t grad_weight_shared_bytes(const GradWeightShape& shape, const GradWeightArgs& a) {
  return std::max<int64_t>(GradWeightMemory(shape, a).end,
                           int64_t(shape.shares) * shape.channels * kTaps * shape.word.sum_bytes);
}

// Sets cells and the kernel of the product.
void choose_cells(ConvArgs& a) {
  a.cell_h = a.cell_w = 1;
  a.kernel_h = a.rows.kernel, a.kernel_w = a.columns.kernel;
  a.dilation_h = a.rows.dilation, a.dilation_w = a.columns.dilation;
  if (!a.gradient) return;
  // A cell has whole strides, whichever way a member is turned, and enough pixels to fill the columns of a product.
  const bool square = a.rows.size == a.columns.size;
  int32_t h = a.rows.stride, w = a.columns.stride;
  if (square) h = w = std::lcm(h, w);
  int32_t scale = 1;
  while (a.out_channels * h * w * scale * scale < kMinColumns) scale *= 2;
  a.cell_h = h * scale, a.cell_w = w * scale;
  a.kernel_h = a.kernel_w = a.dilation_h = a.dilation_w = 1;
  for (int code = 0; code < 8; ++code) {
    if (code & 1 && !square) continue;
    const CellAxes axes(a, code);
    a.kernel_h = std::max(a.kernel_h, axes.i.count()), a.kernel_w = std::max(a.kernel_w, axes.j.count());
  }
}

// Sets the tile: the largest that fits, with as many channels and rows of the kernel at once as leave room for other
// blocks.
void choose_tile(ConvArgs& a, const ProductShape& shape) {
  TileLayout& t = a.tile;
  const int numbers = shape.word.numbers;
  const int64_t available = device().shared, wanted = std::min<int64_t>(available, kWantedBytes);
  const int32_t grid_h = ceil_div(a.out_h, a.cell_h), grid_w = ceil_div(a.out_w, a.cell_w);
  // For a gradient, how far cells are apart along an axis depends on the member: this is the farthest.
  const int32_t min_stride = std::min(a.rows.stride, a.columns.stride);
  const int32_t step_h = a.gradient ? a.cell_h / min_stride : a.rows.stride;
  const int32_t step_w = a.gradient ? a.cell_w / min_stride : a.columns.stride;
  t.dense = numbers > 1 && !a.gradient && step_w % 2 == 0 && a.dilation_w == 1;
  t.pair = numbers > 1 ? a.dilation_w : 0;
  t.kernel_words = ceil_div(a.kernel_w, numbers);
  t.stride = a.rows.stride, t.dilation = a.rows.dilation;
  a.tile_shift = std::min(log2_ceil(grid_w), std::min(log2_ceil(shape.rows), kLog2MaxTileWidth));
  a.tile_h = std::min(shape.rows >> a.tile_shift, grid_h);

  // Lays out a tile of so many channels and rows of the kernel; returns the bytes that a block then needs.
  const auto lay_out = [&](int32_t channels, int32_t kernel_rows) {
    t.channels = channels, t.kernel_rows = kernel_rows;
    t.rows = (a.tile_h - 1) * step_h + (kernel_rows - 1) * a.dilation_h + 1;
    t.apart = !a.gradient && a.tile_h * kernel_rows < t.rows;
    if (t.apart) t.rows = a.tile_h * kernel_rows;
    const int32_t columns = ((1 << a.tile_shift) - 1) * step_w + (t.kernel_words * numbers - 1) * a.dilation_w + 1;
    t.words = t.dense ? ceil_div(columns, 2) : columns - t.pair;
    t.pitch = t.words | 1;  // odd, so that rows are written side by side without bank conflicts
    t.plane = (t.pitch * t.rows) | 1;
    t.steps = ceil_div(channels * kernel_rows * t.kernel_words, 8);
    return conv_shared_bytes(shape, a);
  };
  int32_t channels = std::max(a.in_channels, 1), kernel_rows = a.kernel_h;
  while (channels > 1 && lay_out(channels, kernel_rows) > wanted) channels = ceil_div(channels, 2);
  // Fewer rows of the kernel take less memory only where rows of places are apart.
  while (kernel_rows > 1 && a.rows.stride >= a.rows.kernel && lay_out(channels, kernel_rows) > wanted)
    kernel_rows = ceil_div(kernel_rows, 2);
  while (lay_out(channels, kernel_rows) > available) {
    if (a.tile_h > 1 && (a.tile_shift == 0 || a.tile_h >= 1 << a.tile_shift)) a.tile_h = ceil_div(a.tile_h, 2);
    else if (a.tile_shift > 0) --a.tile_shift;
    else if (kernel_rows > 1) kernel_rows = ceil_div(kernel_rows, 2);
    else does_not_fit();
  }
  t.row_passes = ceil_div(a.kernel_h, kernel_rows);
  t.passes = ceil_div(a.in_channels, channels) * t.row_passes;
  t.by_channels = Divider(t.channels), t.by_rows = Divider(t.rows), t.by_words = Divider(t.words);
  t.by_kernel_rows = Divider(t.kernel_rows), t.by_kernel_words = Divider(t.kernel_words);
  a.tiles_x = Divider(ceil_div(grid_w, 1 << a.tile_shift)), a.tiles_y = Divider(ceil_div(grid_h, a.tile_h));
  a.column_blocks = Divider(ceil_div<int64_t>(a.product_columns, shape.columns));
}

// Sets the tile of the weight gradient, and how many channels and rows of the kernel a block has at once. Returns the
// number of such runs of taps.
int32_t choose_tile(GradWeightArgs& a, const GradWeightShape& shape) {
  TileLayout& t = a.tile;
  const int numbers = shape.word.numbers;
  const int64_t available = device().shared;
  const int32_t all_channels = std::max(a.in_channels, 1);
  int32_t channels = std::clamp(kTaps / (a.rows.kernel * a.columns.kernel), 1, all_channels);
  int32_t kernel_rows = std::clamp(kTaps / a.columns.kernel, 1, a.rows.kernel);
  t.dense = false;
  t.pair = numbers > 1 ? a.columns.stride : 0;
  t.stride = a.rows.stride, t.dilation = a.rows.dilation;
  const int32_t min_shift = numbers > 1;  // the numbers of a word are neighbours in a row
  a.tile_shift = min_shift;
  while ((1 << a.tile_shift) < std::min(a.out_w, 1 << kLog2MaxTileWidth)) ++a.tile_shift;
  a.tile_h = std::min(shape.places >> a.tile_shift, a.out_h);

  // As above.
  const auto lay_out = [&] {
    t.channels = channels, t.kernel_rows = kernel_rows;
    t.rows = (a.tile_h - 1) * t.stride + (kernel_rows - 1) * t.dilation + 1;
    t.apart = a.tile_h * kernel_rows < t.rows;
    if (t.apart) t.rows = a.tile_h * kernel_rows;
    const int32_t columns =
        ((1 << a.tile_shift) - 1) * a.columns.stride + (a.columns.kernel - 1) * a.columns.dilation + 1;
    t.words = columns - t.pair;
    t.pitch = t.words | 1;
    t.plane = (t.pitch * t.rows) | 1;
    return grad_weight_shared_bytes(shape, a);
  };
  // It is better to have few places at a time than one block alone on a multiprocessor.
  while (a.tile_h > 2 && lay_out() > kWantedGradWeightBytes) a.tile_h = ceil_div(a.tile_h, 2);
  while (lay_out() > available) {
    if (a.tile_h > 1) a.tile_h = ceil_div(a.tile_h, 2);
    else if (a.tile_shift > min_shift) --a.tile_shift;
    else if (channels > 1) channels = ceil_div(channels, 2);
    else if (kernel_rows > 1) kernel_rows = ceil_div(kernel_rows, 2);
    else does_not_fit();
  }
  // The runs of kernel rows have about one length.
  t.row_passes = ceil_div(a.rows.kernel, kernel_rows);
  kernel_rows = ceil_div(a.rows.kernel, t.row_passes);
  lay_out();
  t.by_channels = Divider(t.channels), t.by_rows = Divider(t.rows), t.by_words = Divider(t.words);
  t.by_kernel_rows = Divider(kernel_rows);
  a.cuts = ceil_div(channels * kernel_rows * a.columns.kernel, kTaps);
  return ceil_div(all_channels, channels) * t.row_passes;
}

// Into how many blocks to split the sum over tiles, of which there are `blocks` others besides: enough to fill the
// device a few times, if the workspace allows.
int32_t choose_splits(const GradWeightArgs& a, const GradWeightShape& shape, int64_t blocks) {
  const int64_t weight = int64_t(a.out_channels) * a.in_channels * a.rows.kernel * a.columns.kernel;
  const int64_t wanted = ceil_div(kBlocksPerProcessor * device().processors, blocks);
  const int64_t allowed = kMaxWorkspace / std::max<int64_t>(weight * shape.word.sum_bytes, 1);
  return static_cast<int32_t>(std::clamp<int64_t>(std::min(wanted, allowed), 1, a.units));
}

}  // namespace

ConvPlan plan_convolution(const ConvArgs& args) {
  ConvPlan plan = {.args = args, .blocks = 0, .shared_bytes = 0, .packed_words = 0};
  ConvArgs& a = plan.args;
  choose_cells(a);
  a.product_columns = a.out_channels * a.cell_h * a.cell_w;
  const ProductShape shape = product_shape(a.math, a.product_columns);
  choose_tile(a, shape);
  a.by_cell_h = Divider(a.cell_h), a.by_cell_w = Divider(a.cell_w), a.by_batch = Divider(std::max(a.batch, 1));
  const int64_t order = a.members.order, column_blocks = a.column_blocks.divisor;
  plan.blocks = column_blocks * a.tiles_x.divisor * a.tiles_y.divisor * a.batch * (a.gradient ? 1 : order);
  plan.packed_words = (a.gradient ? order : 1) * a.tile.passes * column_blocks * 8 * a.tile.steps * shape.columns;
  plan.shared_bytes = conv_shared_bytes(shape, a);
  return plan;
}

GradWeightPlan plan_grad_weight(const GradWeightArgs& args) {
  GradWeightPlan plan = {.args = args, .blocks = 0, .shared_bytes = 0};
  GradWeightArgs& a = plan.args;
  const GradWeightShape shape = grad_weight_shape(a.math, a.out_channels);
  const int32_t tap_blocks = choose_tile(a, shape) * a.cuts;
  const int32_t channel_blocks = ceil_div(a.out_channels, shape.channels);
  a.by_kernel_w = Divider(a.columns.kernel), a.by_cuts = Divider(a.cuts), a.by_batch = Divider(a.batch);
  a.by_tap_blocks = Divider(tap_blocks), a.by_channel_blocks = Divider(channel_blocks);
  a.tiles_x = Divider(ceil_div(a.out_w, 1 << a.tile_shift)), a.tiles_y = Divider(ceil_div(a.out_h, a.tile_h));
  a.units = int64_t(a.members.order) * a.batch * a.tiles_x.divisor * a.tiles_y.divisor;
  if (a.units > INT32_MAX) throw std::invalid_argument("orbit_conv2d: expected less than 2^31 tiles of all members");
  const int64_t blocks = int64_t(channel_blocks) * tap_blocks;
  a.splits = choose_splits(a, shape, blocks);
  plan.blocks = blocks * a.splits;
  plan.shared_bytes = grad_weight_shared_bytes(shape, a);
  return plan;
}

}  // namespace equifast::cuda
