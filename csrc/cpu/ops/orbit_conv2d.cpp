// orbit_conv2d on the CPU, where the first layers of a network are small enough for the direct kernel: the torch op
// orbit_conv2d_direct, for several layers in float32 or bfloat16. Everything else is composed of other ops in Python.
#include <torch/csrc/stable/library.h>

#include "cpu/runtime/conv_plan.h"
#include "cpu/runtime/isa.h"
#include "cpu/runtime/packed_layers.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

// Whether this processor has tiles, and the images of all layers are for them.
bool suit_tiles(const OrbitConv2dArgs& a) {
  bool fit = best_isa() == Isa::amx && a.conv.C <= kTileChannels;
  for (int64_t l = 0; l < a.followers; ++l) fit = fit && a.following[l].conv.C <= kTileChannels;
  return fit;
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

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) { m.impl("orbit_conv2d_direct", TORCH_BOX(&orbit_conv2d_direct)); }

}  // namespace equifast::cpu
