#include "cpu/runtime/conv_plan.h"

namespace equifast::cpu {

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

OrbitConv2dArgs conv_arguments(const Tensor& x, const Resample& resample, int64_t out_channels,
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

}  // namespace equifast::cpu
