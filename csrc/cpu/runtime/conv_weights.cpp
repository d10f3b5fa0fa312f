#include "cpu/runtime/conv_weights.h"

#include <algorithm>
#include <bit>

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

}  // namespace

std::vector<float> values_of(const Tensor& t) {
  const Values found(t);
  return {found.begin(), found.end()};
}

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

}  // namespace equifast::cpu
