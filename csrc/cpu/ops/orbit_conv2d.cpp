// orbit_conv2d on the CPU, where the first layers of a network are small enough for the direct kernel: the torch ops
// orbit_conv2d_direct, for several layers in float32 or one in bfloat16, and orbit_conv2d_direct_backward, for one in
// float32. Everything else is composed of other ops in Python.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "common/convolution.h"
#include "cpu/runtime/isa.h"
#include "cpu/runtime/resample_plan.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

// The weight gradient is summed over at most this many runs of images, which are then added up.
constexpr int64_t kPartialSums = 32;

bool is_bfloat16(const Tensor& t) { return t.scalar_type() == ScalarType::BFloat16; }

// The values of a float32 or bfloat16 tensor in float32: its own if they are dense, else copies.
class Values {
 public:
  explicit Values(const Tensor& t) : dense_(torch::stable::contiguous(t)) {
    if (!is_bfloat16(t)) return;
    wide_.resize(t.numel());
    const auto* in = static_cast<const uint16_t*>(dense_.const_data_ptr());
    for (size_t k = 0; k < wide_.size(); ++k) wide_[k] = std::bit_cast<float>(uint32_t(in[k]) << 16);
  }

  const float* begin() const {
    return wide_.empty() ? static_cast<const float*>(dense_.const_data_ptr()) : wide_.data();
  }
  const float* end() const { return begin() + dense_.numel(); }

 private:
  Tensor dense_;
  std::vector<float> wide_;
};

// What batch normalization in eval mode does to each channel: z·scale + shift.
struct Affine {
  std::vector<double> scale, shift;
};

// Copies a weight (C_out, taps), each channel times its scale, to (blocks, taps, kBlock), with zeros past the last
// channel.
std::vector<float> packed(const Tensor& weight, const std::vector<double>& scale, int64_t taps) {
  const auto channels = static_cast<int64_t>(scale.size()), blocks = (channels + kBlock - 1) / kBlock;
  std::vector<float> out(blocks * taps * kBlock, 0.0f);
  const Values values(weight);
  const float* in = values.begin();
  float* to = out.data();
  for (int64_t first = 0; first < channels; first += kBlock) {
    float scales[kBlock];
    const int64_t count = std::min(kBlock, channels - first);
    for (int64_t c = 0; c < count; ++c) scales[c] = static_cast<float>(scale[first + c]);
    for (int64_t k = 0; k < taps; ++k, to += kBlock)
      for (int64_t c = 0; c < count; ++c) to[c] = in[(first + c) * taps + k] * scales[c];
  }
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

void check_float32(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, name, ": expected float32");
}

// The layers that orbit_conv2d_direct was called with, each with a normalization perhaps. Their strides, paddings and
// dilations are pairs, one after the other.
struct LayerOptions {
  std::vector<Tensor> weights;
  std::vector<std::optional<Tensor>> biases;
  std::vector<std::optional<Tensor>> norms;  // of each layer: running mean and variance, weight and bias
  std::vector<double> eps;
  std::vector<int64_t> strides, paddings, dilations;
  std::vector<std::string> activations;

  size_t count() const { return weights.size(); }

  void check(const Tensor& x) const {
    const size_t n = count();
    STD_TORCH_CHECK(n > 0 && biases.size() == n && norms.size() == 4 * n && eps.size() == n &&
                        activations.size() == n && strides.size() == 2 * n && paddings.size() == 2 * n &&
                        dilations.size() == 2 * n,
                    "weights: expected as many as there are other options of layers");
    STD_TORCH_CHECK((n == 1 && !norms[0]) || !is_bfloat16(x), "weights: expected one layer without norm in bfloat16");
    check_weight(weights[0], x);
    for (size_t l = 0; l < n; ++l) {
      STD_TORCH_CHECK(weights[l].dim() == 4 && (l == 0 || weights[l].size(1) == weights[l - 1].size(0)),
                      "weights: expected (C_out, C, kH, kW), where C is C_out of the layer before");
      STD_TORCH_CHECK(weights[l].scalar_type() == x.scalar_type(), "weights: expected the dtype of x");
      if (biases[l]) {
        STD_TORCH_CHECK(biases[l]->scalar_type() == x.scalar_type(), "biases: expected the dtype of x");
        check_bias(*biases[l], weights[l]);
      }
      for (size_t k = 4 * l; k < 4 * l + 4; ++k)
        STD_TORCH_CHECK(
            !norms[k] || (norms[k]->numel() == weights[l].size(0) && norms[k]->scalar_type() == ScalarType::Float),
            "norms: expected (C_out,) in float32");
      STD_TORCH_CHECK(norms[4 * l].has_value() == norms[4 * l + 1].has_value(), "norms: expected mean and variance");
    }
  }

  // The normalization after a layer, where the bias is added: of the layer's sums without their bias.
  Affine affine(size_t layer) const {
    const auto values = [&](const std::optional<Tensor>& t, float otherwise) {
      if (!t) return std::vector<float>(weights[layer].size(0), otherwise);
      const Values found(*t);
      return std::vector<float>(found.begin(), found.end());
    };
    const std::vector<float> bias = values(biases[layer], 0);
    Affine result = {std::vector<double>(bias.size(), 1), {bias.begin(), bias.end()}};
    const std::optional<Tensor>* norm = &norms[4 * layer];
    if (!norm[0]) return result;
    const auto mean = values(norm[0], 0), var = values(norm[1], 1), gain = values(norm[2], 1),
               offset = values(norm[3], 0);
    for (size_t c = 0; c < bias.size(); ++c) {
      const double scale = gain[c] / std::sqrt(var[c] + eps[layer]);
      result.scale[c] = scale;
      result.shift[c] = (double(bias[c]) - mean[c]) * scale + offset[c];
    }
    return result;
  }

  std::array<Window, 2> windows(size_t layer, const std::array<int64_t, 2>& size) const {
    const auto pair = [=](const std::vector<int64_t>& all) {
      return std::vector<int64_t>(all.begin() + 2 * layer, all.begin() + 2 * layer + 2);
    };
    const Tensor& weight = weights[layer];
    return windows_of(size, {weight.size(2), weight.size(3)}, pair(strides), pair(paddings), pair(dilations));
  }
};

// The weights and biases of layers as the kernels read them.
class PackedLayers {
 public:
  // Packs those of one layer, and lets the convolution point to them.
  void add(const LayerOptions& options, size_t layer, Conv2d& conv) {
    const Affine affine = options.affine(layer);
    std::vector<float> bias(affine.shift.begin(), affine.shift.end());
    bias.resize(conv.blocks() * kBlock);
    conv.weight = keep(packed(options.weights[layer], affine.scale, conv.taps()));
    conv.bias = keep(std::move(bias));
    conv.activation = activation_of(options.activations[layer]);
  }

 private:
  const float* keep(std::vector<float> values) { return kept_.emplace_back(std::move(values)).data(); }

  std::vector<std::vector<float>> kept_;
};

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
  PackedLayers pack;
  pack.add(options, 0, args.conv);
  for (size_t l = 1; l < count; ++l) pack.add(options, l, following[l - 1].conv);
  r.all_elements = one_task_an_image(r.B);
  r.reuse_bases = r.reuse_bases && r.all_elements;
  const int64_t tasks = (r.all_elements ? 1 : r.order) * r.B;
  if (is_bfloat16(x)) {
    std::vector<TileRow> tiles;
    if (best_isa() == Isa::amx && args.conv.C <= kTileChannels) tiles = packed_tiles(weights[0], args.conv);
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
