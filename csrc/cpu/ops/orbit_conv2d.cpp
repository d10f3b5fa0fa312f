// orbit_conv2d on the CPU, where the first layer of a network is small enough for the direct kernel: the torch ops
// orbit_conv2d_direct, for float32 and bfloat16, and orbit_conv2d_direct_backward, for float32. Everything else is
// composed of other ops in Python.
#include <torch/csrc/stable/library.h>

#include <bit>

#include "common/convolution.h"
#include "cpu/runtime/isa.h"
#include "cpu/runtime/resample_plan.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

// The weight gradient is summed over at most this many runs of images, which are then added up.
constexpr int64_t kPartialSums = 32;

bool is_bfloat16(const Tensor& t) { return t.scalar_type() == ScalarType::BFloat16; }

// The values of a float32 or bfloat16 tensor, in float32.
std::vector<float> values_of(const Tensor& t) {
  const Tensor dense = torch::stable::contiguous(t);
  if (!is_bfloat16(t)) {
    const auto* in = static_cast<const float*>(dense.const_data_ptr());
    return {in, in + t.numel()};
  }
  std::vector<float> out(t.numel());
  const auto* in = static_cast<const uint16_t*>(dense.const_data_ptr());
  for (size_t k = 0; k < out.size(); ++k) out[k] = std::bit_cast<float>(uint32_t(in[k]) << 16);
  return out;
}

// Copies t, (C_out, taps), to (blocks, taps, kBlock), with zeros past the last channel.
std::vector<float> packed(const Tensor& t, int64_t channels, int64_t taps) {
  const int64_t blocks = (channels + kBlock - 1) / kBlock;
  std::vector<float> out(blocks * taps * kBlock, 0.0f);
  const std::vector<float> in = values_of(t);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t k = 0; k < taps; ++k) out[(c / kBlock * taps + k) * kBlock + c % kBlock] = in[c * taps + k];
  return out;
}

// A row of a tile of weights, (kBlock, 2). It is a cache line, so that no row crosses two.
struct alignas(64) TileRow {
  uint16_t values[2 * kBlock];
};

// Copies a bfloat16 weight (C_out, C, kernel_h, kernel_w) to the tiles of AMX.
std::vector<TileRow> packed_tiles(const Tensor& weight, const Conv2d& k) {
  const Conv2dTiles tiles = {k, nullptr, 0, 0};
  const int64_t pixel = pixel_values(k.C), run = tiles.run_pixels();
  std::vector<TileRow> out(k.blocks() * tiles.block_values() / (2 * kBlock), TileRow{});
  const Tensor dense = torch::stable::contiguous(weight);
  const auto* in = static_cast<const uint16_t*>(dense.const_data_ptr());
  for (int64_t o = 0; o < k.out_channels; ++o)
    for (int64_t c = 0; c < k.C; ++c)
      for (int64_t i = 0; i < k.kernel_h; ++i)
        for (int64_t j = 0; j < k.kernel_w; ++j) {
          const int64_t tile = (o / kBlock * k.kernel_h + i) * tiles.runs() + j / run, value = j % run * pixel + c;
          out[tile * kRun / 2 + value / 2].values[o % kBlock * 2 + value % 2] = *in++;
        }
  return out;
}

// The reverse of packed: out, (C_out, taps), gets the sum over `parts` of what is packed at `start` of each; the parts
// are `part_size` numbers apart.
void unpack_sum(const std::vector<float>& sums, int64_t parts, int64_t part_size, int64_t start, int64_t taps,
                const Tensor& out) {
  auto* to = static_cast<float*>(out.mutable_data_ptr());
  for (int64_t c = 0; c < out.size(0); ++c)
    for (int64_t k = 0; k < taps; ++k) {
      const int64_t packed_index = start + (c / kBlock * taps + k) * kBlock + c % kBlock;
      double sum = 0;
      for (int64_t part = 0; part < parts; ++part) sum += sums[part * part_size + packed_index];
      to[c * taps + k] = static_cast<float>(sum);
    }
}

// What forward and backward have in common: how members are made, and the convolution of one member.
OrbitConv2dArgs arguments(const Tensor& x, const Resample& resample, int64_t out_channels,
                          const std::array<Window, 2>& windows, bool channels_last) {
  const auto& [rows, columns] = windows;
  OrbitConv2dArgs args = {};
  args.resample = resample;
  args.resample.channel_block = resample.C;
  args.in = images_of(x);
  args.in_w = x.stride(-1);
  args.padding_h = rows.padding;
  args.padding_w = columns.padding;
  args.conv = {.C = resample.C,
               .H = resample.H + 2 * rows.padding,
               .W = resample.W + 2 * columns.padding,
               .out_channels = out_channels,
               .out_h = rows.output_size(),
               .out_w = columns.output_size(),
               .kernel_h = rows.kernel,
               .kernel_w = columns.kernel,
               .stride_h = rows.stride,
               .stride_w = columns.stride,
               .dilation_h = rows.dilation,
               .dilation_w = columns.dilation,
               .weight = nullptr,
               .bias = nullptr,
               .activation = Activation::none,
               .channels_last = channels_last};
  return args;
}

void check_float32(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, name, ": expected float32");
}

Tensor orbit_conv2d_direct(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<double> table,
                           std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation,
                           std::string padding_mode, std::string activation, bool channels_last) {
  if (!is_bfloat16(x)) check_float32(x, "x");
  check_weight(weight, x);
  if (bias) {
    STD_TORCH_CHECK(bias->scalar_type() == x.scalar_type(), "bias: expected the dtype of x");
    check_bias(*bias, weight);
  }
  const auto windows = windows_of(x, {weight.size(2), weight.size(3)}, stride, padding, dilation);
  const ResamplePlan plan(x, "x", image_sizes(x, "x"), table, {}, {}, padding_mode, {.shared = true});
  auto args = arguments(x, plan.resample, weight.size(0), windows, channels_last);
  Conv2d& conv = args.conv;
  Resample& r = args.resample;
  conv.activation = activation_of(activation);

  const std::array<int64_t, 4> sizes = {r.order * r.B, conv.out_channels, conv.out_h, conv.out_w};
  Tensor out = torch::stable::empty({sizes.data(), 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                    memory_format(channels_last));
  if (out.numel() == 0) return out;
  use_huge_pages(out);
  const std::vector<float> weights = packed(weight, conv.out_channels, conv.taps());
  const std::vector<float> biases =
      bias ? packed(*bias, conv.out_channels, 1) : std::vector<float>(conv.blocks() * kBlock);
  conv.weight = weights.data();
  conv.bias = biases.data();
  r.all_elements = one_task_an_image(r.B);
  r.reuse_bases = r.reuse_bases && r.all_elements;
  const int64_t tasks = (r.all_elements ? 1 : r.order) * r.B;
  if (is_bfloat16(x)) {
    std::vector<TileRow> tiles;
    if (best_isa() == Isa::amx && conv.C <= kTileChannels) tiles = packed_tiles(weight, conv);
    run(cpu_kernels().orbit_conv2d_bfloat16, {args, tiles.empty() ? nullptr : tiles[0].values, out.mutable_data_ptr()},
        tasks);
  } else {
    args.out = static_cast<float*>(out.mutable_data_ptr());
    run(cpu_kernels().orbit_conv2d, args, tasks);
  }
  return out;
}

// The gradients of weight and bias, for kernels of up to kMaxWidth columns. channels_last: the layout to read grad in.
std::tuple<Tensor, Tensor> orbit_conv2d_direct_backward(Tensor grad, Tensor x, std::vector<int64_t> kernel,
                                                        std::vector<double> table, std::vector<int64_t> stride,
                                                        std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                                        std::string padding_mode, bool channels_last) {
  check_one_batch(x, "x");
  check_one_batch(grad, "grad");
  check_float32(x, "x");
  check_float32(grad, "grad");
  STD_TORCH_CHECK(kernel.size() == 2, "kernel: expected a pair");
  const auto windows = windows_of(x, {kernel[0], kernel[1]}, stride, padding, dilation);
  STD_TORCH_CHECK(kernel[1] <= kMaxWidth && dilation[1] == 1, "kernel: expected a width of at most ", kMaxWidth,
                  ", not dilated");
  const ResamplePlan plan(x, "x", image_sizes(x, "x"), table, {}, {}, padding_mode, {.shared = true});
  auto args = arguments(x, plan.resample, grad.size(1), windows, channels_last);
  const Conv2d& conv = args.conv;
  const Resample& r = args.resample;
  const std::array<int64_t, 4> expected = {r.order * r.B, conv.out_channels, conv.out_h, conv.out_w};
  STD_TORCH_CHECK(image_sizes(grad, "grad") == expected, "grad: expected the shape of the output");

  Tensor grad_weight = zeros(x, {conv.out_channels, conv.C, conv.kernel_h, conv.kernel_w});
  Tensor grad_bias = zeros(x, {conv.out_channels});
  if (grad.numel() == 0) return {grad_weight, grad_bias};
  const Tensor dense_grad = torch::stable::contiguous(grad, memory_format(channels_last));
  // The cut into partial sums depends on the batch alone, and so does the result.
  args.samples = (r.B + kPartialSums - 1) / kPartialSums;
  const int64_t tasks = (r.B + args.samples - 1) / args.samples, weights = conv.blocks() * conv.taps() * kBlock;
  const int64_t part_size = weights + conv.blocks() * kBlock;
  std::vector<float> sums(tasks * part_size);
  args.grad = static_cast<const float*>(dense_grad.const_data_ptr());
  args.out = sums.data();
  run(cpu_kernels().orbit_conv2d_grad_weight, args, tasks);
  unpack_sum(sums, tasks, part_size, 0, conv.taps(), grad_weight);
  unpack_sum(sums, tasks, part_size, weights, 1, grad_bias);
  return {grad_weight, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) {
  m.impl("orbit_conv2d_direct", TORCH_BOX(&orbit_conv2d_direct));
  m.impl("orbit_conv2d_direct_backward", TORCH_BOX(&orbit_conv2d_direct_backward));
}

}  // namespace equifast::cpu
