// The gradients of weight and bias of the direct kernel, in float32: the torch op orbit_conv2d_direct_backward.
// Everything else is composed of other ops in Python.
#include <torch/csrc/stable/library.h>

#include "cpu/runtime/conv_plan.h"
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
  auto args = conv_arguments(x, plan.resample, grad.size(1), windows, channels_last);
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
  m.impl("orbit_conv2d_direct_backward", TORCH_BOX(&orbit_conv2d_direct_backward));
}

}  // namespace equifast::cpu
