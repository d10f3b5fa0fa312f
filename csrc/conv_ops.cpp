#include "conv_ops.h"

#include <torch/headeronly/util/Exception.h>

namespace equifast {
namespace {

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

}  // namespace

Tensor orbit_conv2d_direct(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<double> table,
                           std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation,
                           std::string padding_mode, std::string activation, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(x.dim() == 4 && weight.dim() == 4 && weight.size(1) == x.size(1),
                  "x, weight: expected (B, C, H, W) and (C_out, C, kH, kW)");
  for (const Tensor& t : {x, weight, bias.value_or(weight)})
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, "x, weight, bias: expected float32");
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == weight.size(0)), "bias: expected (C_out,)");
  STD_TORCH_CHECK(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2,
                  "stride, padding, dilation: expected pairs");
  WarpPlan plan(cpu::Dtype::float32, {x.size(0), x.size(1), x.size(2), x.size(3)}, table, {}, {}, padding_mode,
                {.shared = true});
  cpu::OrbitConv2dArgs args = {
      .warp = plan.warp, .in = {}, .conv = {}, .padding_h = padding[0], .padding_w = padding[1], .out = nullptr};
  cpu::Warp& w = args.warp;
  cpu::Conv2d& k = args.conv;
  k = {.C = w.C,
       .H = w.H + 2 * padding[0],
       .W = w.W + 2 * padding[1],
       .out_channels = weight.size(0),
       .out_h = 0,
       .out_w = 0,
       .kernel_h = weight.size(2),
       .kernel_w = weight.size(3),
       .stride_h = stride[0],
       .stride_w = stride[1],
       .dilation_h = dilation[0],
       .dilation_w = dilation[1],
       .weight = nullptr,
       .bias = nullptr,
       .activation = activation_of(activation),
       .channels_last = channels_last};
  k.out_h = (k.H - k.dilation_h * (k.kernel_h - 1) - 1) / k.stride_h + 1;
  k.out_w = (k.W - k.dilation_w * (k.kernel_w - 1) - 1) / k.stride_w + 1;
  STD_TORCH_CHECK(k.out_h > 0 && k.out_w > 0, "x: too small for the kernel");

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
  w.group = w.C;
  w.whole = w.B >= 2 * static_cast<int64_t>(torch::stable::get_num_threads());
  w.reuse = w.reuse && w.whole;
  run(cpu::cpu_kernels().orbit_conv2d, args, (w.whole ? 1 : w.order) * w.B);
  return out;
}

}  // namespace equifast
