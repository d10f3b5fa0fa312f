#include "cpu/ops/conv_ops.h"

#include <torch/headeronly/util/Exception.h>

namespace equifast {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

constexpr int64_t kPartialSums = 32;

cpu::Activation activation_of(const std::string& name) {
  if (name == "relu") return cpu::Activation::relu;
  if (name == "gelu") return cpu::Activation::gelu;
  if (name == "silu") return cpu::Activation::silu;
  STD_TORCH_CHECK(name == "none", "activation: expected none, relu, gelu or silu, got '", name, "'");
  return cpu::Activation::none;
}

// (C_out, taps) as (blocks, taps, kBlock), zero past the last channel.
std::vector<float> packed(const Tensor& t, int64_t channels, int64_t taps) {
  const int64_t blocks = (channels + cpu::kBlock - 1) / cpu::kBlock;
  std::vector<float> out(blocks * taps * cpu::kBlock, 0.0f);
  const auto* in = static_cast<const float*>(t.const_data_ptr());
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t k = 0; k < taps; ++k)
      out[(c / cpu::kBlock * taps + k) * cpu::kBlock + c % cpu::kBlock] = in[c * taps + k];
  return out;
}

// The other way, from partial sums `partial` apart, beginning at `start`.
void unpack(const std::vector<float>& sums, int64_t tasks, int64_t partial, int64_t start, int64_t taps,
            const Tensor& out) {
  auto* to = static_cast<float*>(out.mutable_data_ptr());
  for (int64_t c = 0; c < out.size(0); ++c)
    for (int64_t k = 0; k < taps; ++k) {
      const int64_t at = start + (c / cpu::kBlock * taps + k) * cpu::kBlock + c % cpu::kBlock;
      double sum = 0;
      for (int64_t t = 0; t < tasks; ++t) sum += sums[t * partial + at];
      to[c * taps + k] = static_cast<float>(sum);
    }
}

// What both directions have in common: the warp, and the convolution of one member.
cpu::OrbitConv2dArgs arguments(const WarpPlan& plan, int64_t out_channels, std::array<int64_t, 2> kernel,
                               const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                               const std::vector<int64_t>& dilation) {
  STD_TORCH_CHECK(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2,
                  "stride, padding, dilation: expected pairs");
  cpu::OrbitConv2dArgs args = {};
  args.warp = plan.warp;
  args.warp.group = plan.warp.C;
  args.padding_h = padding[0];
  args.padding_w = padding[1];
  cpu::Conv2d& k = args.conv;
  k.C = plan.warp.C;
  k.H = plan.warp.H + 2 * padding[0];
  k.W = plan.warp.W + 2 * padding[1];
  k.out_channels = out_channels;
  k.kernel_h = kernel[0];
  k.kernel_w = kernel[1];
  k.stride_h = stride[0];
  k.stride_w = stride[1];
  k.dilation_h = dilation[0];
  k.dilation_w = dilation[1];
  k.out_h = (k.H - k.dilation_h * (k.kernel_h - 1) - 1) / k.stride_h + 1;
  k.out_w = (k.W - k.dilation_w * (k.kernel_w - 1) - 1) / k.stride_w + 1;
  STD_TORCH_CHECK(k.out_h > 0 && k.out_w > 0, "x: too small for the kernel");
  return args;
}

void check_images(const Tensor& x, int64_t channels) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) == channels, "x: expected (B, ", channels, ", H, W)");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "x: expected float32");
}

std::array<int64_t, 4> sizes_of(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

}  // namespace

Tensor orbit_conv2d_direct(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<double> table,
                           std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation,
                           std::string padding_mode, std::string activation, bool channels_last) {
  STD_TORCH_CHECK(weight.dim() == 4, "weight: expected (C_out, C, kH, kW)");
  check_images(x, weight.size(1));
  for (const Tensor& t : {weight, bias.value_or(weight)})
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, "weight, bias: expected float32");
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == weight.size(0)), "bias: expected (C_out,)");
  WarpPlan plan(cpu::Dtype::float32, sizes_of(x), table, {}, {}, padding_mode, {.shared = true});
  auto args = arguments(plan, weight.size(0), {weight.size(2), weight.size(3)}, stride, padding, dilation);
  cpu::Conv2d& k = args.conv;
  cpu::Warp& w = args.warp;
  k.activation = activation_of(activation);
  k.channels_last = channels_last;

  const std::array<int64_t, 4> sizes = {w.order * w.B, k.out_channels, k.out_h, k.out_w};
  Tensor out = torch::stable::empty({sizes.data(), 4}, ScalarType::Float, std::nullopt, x.device(), std::nullopt,
                                    channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  if (out.numel() == 0) return out;
  use_huge_pages(out);
  const Tensor dense = with_dense_rows(x);
  const std::vector<float> weights = packed(torch::stable::contiguous(weight), k.out_channels, k.taps());
  const std::vector<float> biases =
      bias ? packed(torch::stable::contiguous(*bias), k.out_channels, 1) : std::vector<float>(k.blocks() * cpu::kBlock);
  args.in = images_of(dense);
  args.out = static_cast<float*>(out.mutable_data_ptr());
  k.weight = weights.data();
  k.bias = biases.data();
  w.whole = w.B >= 2 * static_cast<int64_t>(torch::stable::get_num_threads());
  w.reuse = w.reuse && w.whole;
  run(cpu::cpu_kernels().orbit_conv2d, args, (w.whole ? 1 : w.order) * w.B);
  return out;
}

std::tuple<Tensor, Tensor> orbit_conv2d_direct_backward(Tensor grad, Tensor x, std::vector<int64_t> kernel,
                                                        std::vector<double> table, std::vector<int64_t> stride,
                                                        std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                                        std::string padding_mode, bool channels_last) {
  STD_TORCH_CHECK(x.dim() == 4 && grad.dim() == 4 && kernel.size() == 2, "expected x and grad (N, C, H, W), a pair");
  check_images(x, x.size(1));
  STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Float, "grad: expected float32");
  STD_TORCH_CHECK(kernel[1] <= cpu::kMaxWidth && dilation.size() == 2 && dilation[1] == 1,
                  "kernel: expected a width of at most ", cpu::kMaxWidth, ", not dilated");
  WarpPlan plan(cpu::Dtype::float32, sizes_of(x), table, {}, {}, padding_mode, {.shared = true});
  auto args = arguments(plan, grad.size(1), {kernel[0], kernel[1]}, stride, padding, dilation);
  cpu::Conv2d& k = args.conv;
  const cpu::Warp& w = args.warp;
  const std::array<int64_t, 4> expected = {w.order * w.B, k.out_channels, k.out_h, k.out_w};
  STD_TORCH_CHECK(sizes_of(grad) == expected, "grad: expected the shape of the output");
  k.channels_last = channels_last;

  const std::array<int64_t, 4> shape = {k.out_channels, k.C, k.kernel_h, k.kernel_w};
  Tensor grad_weight = torch::stable::new_zeros(x, {shape.data(), 4});
  Tensor grad_bias = torch::stable::new_zeros(x, {shape.data(), 1});
  if (grad.numel() == 0) return {grad_weight, grad_bias};
  const Tensor dense = with_dense_rows(x);
  const Tensor g =
      torch::stable::contiguous(grad, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  // The cut into partial sums depends on the batch alone, and so does the result.
  args.samples = (w.B + kPartialSums - 1) / kPartialSums;
  const int64_t tasks = (w.B + args.samples - 1) / args.samples, weights = k.blocks() * k.taps() * cpu::kBlock;
  const int64_t partial = weights + k.blocks() * cpu::kBlock;
  std::vector<float> sums(tasks * partial);
  args.in = images_of(dense);
  args.grad = static_cast<const float*>(g.const_data_ptr());
  args.out = sums.data();
  run(cpu::cpu_kernels().orbit_conv2d_weight, args, tasks);
  unpack(sums, tasks, partial, 0, k.taps(), grad_weight);
  unpack(sums, tasks, partial, weights, 1, grad_bias);
  return {grad_weight, grad_bias};
}

}  // namespace equifast
