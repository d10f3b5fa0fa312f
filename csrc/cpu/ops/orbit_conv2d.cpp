// orbit_conv2d on the CPU, where the first layers of a network are small enough for the direct kernel: the torch op
// orbit_conv2d_direct, for several layers in float32 or one in bfloat16. Everything else is composed of other ops in
// Python.
#include <torch/csrc/stable/library.h>

#include <cmath>

#include "cpu/runtime/conv_plan.h"
#include "cpu/runtime/conv_weights.h"
#include "cpu/runtime/isa.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

// What batch normalization in eval mode does to each channel: z·scale + shift.
struct Affine {
  std::vector<double> scale, shift;
};

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
      return t ? values_of(*t) : std::vector<float>(weights[layer].size(0), otherwise);
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
  auto args = conv_arguments(x, plan.resample, weights[0].size(0), options.windows(0, {x.size(2), x.size(3)}),
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

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) { m.impl("orbit_conv2d_direct", TORCH_BOX(&orbit_conv2d_direct)); }

}  // namespace equifast::cpu
