#include "cpu/runtime/packed_layers.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "cpu/kernels/pixels.h"

namespace equifast::cpu {
namespace {

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

// Copies a weight (C_out, C, kernel_h, kernel_w), each channel times its scale and then rounded, to the tiles of AMX.
std::vector<TileRow> packed_tiles(const Tensor& weight, const std::vector<double>& scale, const Conv2d& k) {
  const Conv2dTiles tiles = {k, nullptr, 0, 0};
  const int64_t pixel = tiles.pixel_values(), rows = tiles.runs() * kRun / 2;
  std::vector<TileRow> out(k.blocks() * k.kernel_h * rows, TileRow{});
  const Values values(weight);
  const float* in = values.begin();
  for (int64_t o = 0; o < k.out_channels; ++o) {
    const auto scaled = static_cast<float>(scale[o]);
    for (int64_t c = 0; c < k.C; ++c)
      for (int64_t i = 0; i < k.kernel_h; ++i) {
        TileRow* const to = &out[(o / kBlock * k.kernel_h + i) * rows];
        for (int64_t j = 0; j < k.kernel_w; ++j) {
          const int64_t value = j * pixel + c;  // runs follow each other without gaps
          to[value / 2].values[o % kBlock * 2 + value % 2] = narrow<bfloat16>(*in++ * scaled).bits;
        }
      }
  }
  return out;
}

bool is_float(const Tensor& t, const Tensor& x) {
  return t.scalar_type() == ScalarType::Float || t.scalar_type() == x.scalar_type();
}

}  // namespace

void LayerOptions::check(const Tensor& x) const {
  const size_t n = count();
  STD_TORCH_CHECK(n > 0 && biases.size() == n && norms.size() == 4 * n && eps.size() == n && activations.size() == n &&
                      strides.size() == 2 * n && paddings.size() == 2 * n && dilations.size() == 2 * n,
                  "weights: expected as many as there are other options of layers");
  check_one_batch(x, "x");
  int64_t channels = x.size(1);
  for (size_t l = 0; l < n; ++l) {
    STD_TORCH_CHECK(channels > 0, "x, weights: expected at least one channel");
    STD_TORCH_CHECK(weights[l].dim() == 4 && weights[l].size(1) == channels,
                    "weights: expected (C_out, C, kH, kW), where C is that of x or C_out of the layer before");
    channels = weights[l].size(0);
    STD_TORCH_CHECK(is_float(weights[l], x), "weights: expected the dtype of x, or float32");
    if (biases[l]) {
      STD_TORCH_CHECK(is_float(*biases[l], x), "biases: expected the dtype of x, or float32");
      check_bias(*biases[l], weights[l]);
    }
    for (size_t k = 4 * l; k < 4 * l + 4; ++k)
      STD_TORCH_CHECK(!norms[k] || (norms[k]->numel() == channels && is_float(*norms[k], x)),
                      "norms: expected (C_out,) in the dtype of x, or float32");
    STD_TORCH_CHECK(norms[4 * l].has_value() == norms[4 * l + 1].has_value(), "norms: expected mean and variance");
  }
}

Affine LayerOptions::affine(size_t layer) const {
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

std::array<Window, 2> LayerOptions::windows(size_t layer, const std::array<int64_t, 2>& size) const {
  const auto pair = [=](const std::vector<int64_t>& all) {
    return std::vector<int64_t>(all.begin() + 2 * layer, all.begin() + 2 * layer + 2);
  };
  const Tensor& weight = weights[layer];
  return windows_of(size, {weight.size(2), weight.size(3)}, pair(strides), pair(paddings), pair(dilations));
}

void PackedLayers::add(const LayerOptions& options, size_t layer, Conv2d& conv) {
  const Affine affine = options.affine(layer);
  std::vector<float> bias(affine.shift.begin(), affine.shift.end());
  bias.resize(conv.blocks() * kBlock);
  conv.bias = keep(std::move(bias));
  conv.activation = activation_of(options.activations[layer]);
  if (!for_tiles_) {
    conv.weight = keep(packed(options.weights[layer], affine.scale, conv.taps()));
    return;
  }
  kept_tiles_.push_back(packed_tiles(options.weights[layer], affine.scale, conv));
  tiles_.push_back(kept_tiles_.back().empty() ? nullptr : kept_tiles_.back()[0].values);
}

}  // namespace equifast::cpu
