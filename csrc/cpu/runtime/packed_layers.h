// The layers that orbit_conv2d_direct is called with, and their weights and biases as kernels read them.
#pragma once

#include "common/convolution.h"
#include "cpu/kernels/conv2d_tiles.h"

namespace equifast::cpu {

inline bool is_bfloat16(const Tensor& t) { return t.scalar_type() == ScalarType::BFloat16; }

// What batch normalization in eval mode does to each channel: z·scale + shift.
struct Affine {
  std::vector<double> scale, shift;
};

// Convolutions, each with a normalization perhaps. Their strides, paddings and dilations are pairs, one after the
// other. Weights, biases and norms are in the dtype of the images or in float32.
struct LayerOptions {
  std::vector<Tensor> weights;
  std::vector<std::optional<Tensor>> biases;
  std::vector<std::optional<Tensor>> norms;  // of each layer: running mean and variance, weight and bias
  std::vector<double> eps;
  std::vector<int64_t> strides, paddings, dilations;
  std::vector<std::string> activations;

  size_t count() const { return weights.size(); }
  void check(const Tensor& x) const;
  // The normalization after a layer, where the bias is added: of the layer's sums without their bias.
  Affine affine(size_t layer) const;
  std::array<Window, 2> windows(size_t layer, const std::array<int64_t, 2>& size) const;
};

// A row of a tile of weights, (kBlock, 2). It is a cache line, so that no row crosses two.
struct alignas(64) TileRow {
  uint16_t values[2 * kBlock];
};

// The weights and biases of layers as kernels read them: weights for tiles, or for products in float32.
class PackedLayers {
 public:
  explicit PackedLayers(bool for_tiles) : for_tiles_(for_tiles) {}

  // Packs those of one layer, and lets the convolution point to them. Weights for tiles are only among tiles().
  void add(const LayerOptions& options, size_t layer, Conv2d& conv);
  const uint16_t* const* tiles() const { return for_tiles_ ? tiles_.data() : nullptr; }

 private:
  const float* keep(std::vector<float> values) { return kept_.emplace_back(std::move(values)).data(); }

  bool for_tiles_;
  std::vector<std::vector<float>> kept_;
  std::vector<std::vector<TileRow>> kept_tiles_;
  std::vector<const uint16_t*> tiles_;
};

}  // namespace equifast::cpu
