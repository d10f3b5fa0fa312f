// orbit_conv2d on the CPU, where the first layers of a network are small enough for the direct kernel: the torch ops
// orbit_conv2d_direct, for several layers in float32 or bfloat16, and orbit_conv2d_direct_backward, for one in float32.
// Everything else is composed of other ops in Python.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "cpu/runtime/isa.h"
#include "cpu/runtime/packed_layers.h"
#include "cpu/runtime/resample_plan.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

// The weight gradient is summed over at most this many runs of images, which are then added up.
constexpr int64_t kPartialSums = 32;

// The reverse of how weights are packed: out, (C_out, taps), gets the sum over `parts` of what is packed at `start` of
// each; the parts are `part_size` numbers apart.
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

// The convolution of one image of `channels`, without its weights.
Conv2d convolution(int64_t channels, int64_t out_channels, const std::array<Window, 2>& windows, bool channels_last) {
  const auto& [rows, columns] = windows;
  const int64_t out_h = rows.output_size(), out_w = columns.output_size();
  return {.C = channels,
          .H = rows.size + 2 * rows.padding,
          .W = columns.size + 2 * columns.padding,
          .out_channels = out_channels,
          .out_h = out_h,
          .out_w = out_w,
          .kernel_h = rows.kernel,
          .kernel_w = columns.kernel,
          .stride_h = rows.stride,
          .stride_w = columns.stride,
          .dilation_h = rows.dilation,
          .dilation_w = columns.dilation,
          .weight = nullptr,
          .bias = nullptr,
          .activation = Activation::none,
          .channels_last = channels_last,
          .row_step = out_w,
          .plane_step = out_h * out_w};
}

// What forward and backward have in common: how members are made, and the convolution of one member.
OrbitConv2dArgs arguments(const Tensor& x, const Resample& resample, int64_t out_channels,
                          const std::array<Window, 2>& windows, bool channels_last) {
  const auto& [rows, columns] = windows;
  OrbitConv2dArgs args = {};
  args.resample = resample;
  args.resample.channel_block = resample.C;
  args.in = images_of(x);
  args.padding_h = rows.padding;
  args.padding_w = columns.padding;
  args.conv = convolution(resample.C, out_channels, windows, channels_last);
  return args;
}

// Whether this processor has tiles, and the images of all layers are for them.
bool suit_tiles(const OrbitConv2dArgs& a) {
  bool fit = best_isa() == Isa::amx && a.conv.C <= kTileChannels;
  for (int64_t l = 0; l < a.followers; ++l) fit = fit && a.following[l].conv.C <= kTileChannels;
  return fit;
}

void check_float32(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, name, ": expected float32");
}

Tensor orbit_conv2d_direct(Tensor x, std::vector<Tensor> weights, std::vector<std::optional<Tensor>> biases,
                           std::vector<std::optional<Tensor>> norms, std::vector<double> eps, std::vector<double> table,
                           std::vector<int64_t> strides, std::vector<int64_t> paddings, std::vector<int64_t> dilations,
                           std::string padding_mode, std::vector<std::string> activations, bool channels_last) {
  if (!is_bfloat16(x)) check_float32(x, "x");
  const LayerOptions options = {weights, biases, norms, eps, strides, paddings, dilations, activations};
  options.check(x);
  const size_t count = options.count();
  const ResamplePlan plan(x, "x", image_sizes(x, "x"), table, {}, {}, padding_mode, {.shared = true});
  auto args = arguments(x, plan.resample, weights[0].size(0), options.windows(0, {x.size(2), x.size(3)}),
                        channels_last && count == 1);
  std::vector<FollowingConv2d> following;
  for (size_t l = 1; l < count; ++l) {
    Conv2d& before = l == 1 ? args.conv : following.back().conv;
    const auto windows = options.windows(l, {before.out_h, before.out_w});
    const Conv2d conv = convolution(before.out_channels, weights[l].size(0), windows, channels_last && l + 1 == count);
    before.row_step = conv.W, before.plane_step = conv.H * conv.W;
    following.push_back({conv, windows[0].padding, windows[1].padding});
  }
  args.following = following.data();
  args.followers = following.size();

  Resample& r = args.resample;
  const Conv2d& last = following.empty() ? args.conv : following.back().conv;
  const std::array<int64_t, 4> sizes = {r.order * r.B, last.out_channels, last.out_h, last.out_w};
  Tensor out = torch::stable::empty({sizes.data(), 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                    memory_format(channels_last));
  if (out.numel() == 0) return out;
  use_huge_pages(out);
  PackedLayers packed(is_bfloat16(x) && suit_tiles(args));
  packed.add(options, 0, args.conv);
  for (size_t l = 1; l < count; ++l) packed.add(options, l, following[l - 1].conv);
  r.all_elements = one_task_an_image(r.B);
  r.reuse_bases = r.reuse_bases && r.all_elements;
  const int64_t tasks = (r.all_elements ? 1 : r.order) * r.B;
  if (is_bfloat16(x)) {
    run(cpu_kernels().orbit_conv2d_bfloat16, {args, packed.tiles(), out.mutable_data_ptr()}, tasks);
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
