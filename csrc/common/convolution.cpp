#include "common/convolution.h"

namespace equifast {

Activation activation_of(const std::string& name) {
  constexpr std::pair<const char*, Activation> kNames[] = {
      {"none", Activation::none}, {"relu", Activation::relu}, {"gelu", Activation::gelu}, {"silu", Activation::silu}};
  for (const auto& [known, activation] : kNames)
    if (name == known) return activation;
  STD_TORCH_CHECK(false, "activation: expected none, relu, gelu or silu, got '", name, "'");
}

int32_t to_int32(int64_t size, const char* name) {
  STD_TORCH_CHECK(size <= INT32_MAX, name, ": expected sizes of less than 2^31");
  return static_cast<int32_t>(size);
}

std::array<Window, 2> windows_of(const std::array<int64_t, 2>& size, const std::array<int64_t, 2>& kernel,
                                 const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                 const std::vector<int64_t>& dilation) {
  STD_TORCH_CHECK(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2,
                  "stride, padding, dilation: expected pairs");
  std::array<Window, 2> windows;
  for (int axis = 0; axis < 2; ++axis) {
    STD_TORCH_CHECK(kernel[axis] > 0, "weight: expected kernels of at least one row and column");
    STD_TORCH_CHECK(stride[axis] > 0 && padding[axis] >= 0 && dilation[axis] > 0,
                    "stride, dilation: expected positive");
    windows[axis] = {to_int32(size[axis], "x"), to_int32(kernel[axis], "weight"), to_int32(stride[axis], "stride"),
                     to_int32(padding[axis], "padding"), to_int32(dilation[axis], "dilation")};
    const int64_t padded = windows[axis].size + 2 * padding[axis];
    STD_TORCH_CHECK(size[axis] > 0, "x: expected at least one row and column");
    STD_TORCH_CHECK(padded <= INT32_MAX, "padding: expected images of less than 2^31 rows and columns with it");
    STD_TORCH_CHECK(padded >= dilation[axis] * (kernel[axis] - 1) + 1, "x: too small for the kernel");
  }
  return windows;
}

std::array<Window, 2> windows_of(const Tensor& x, const std::array<int64_t, 2>& kernel,
                                 const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                 const std::vector<int64_t>& dilation) {
  check_one_batch(x, "x");
  STD_TORCH_CHECK(x.size(1) > 0, "x: expected at least one channel");
  return windows_of({x.size(2), x.size(3)}, kernel, stride, padding, dilation);
}

void check_weight(const Tensor& weight, const Tensor& x) {
  check_one_batch(x, "x");
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == x.size(1), "weight: expected (C_out, ", x.size(1),
                  ", kH, kW)");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type(), "weight: expected the dtype of x");
}

void check_bias(const Tensor& bias, const Tensor& weight) {
  STD_TORCH_CHECK(bias.dim() == 1 && bias.size(0) == weight.size(0), "bias: expected (C_out,)");
}

}  // namespace equifast
