#include "cuda/ops/conv_ops.h"

#include <algorithm>
#include <array>

#include "cuda/kernels/conv.h"
#include "cuda/ops/warp_ops.h"
#include "cuda/runtime/sum_parts.h"
#include "cuda/runtime/table_on_device.h"

namespace equifast::cuda {
namespace {

using Pair = std::vector<int64_t>;

Math math_of(const Tensor& t, bool tf32) {
  switch (dtype_of(t, "x")) {
    case Dtype::float64: return Math::float64;
    case Dtype::float32: return tf32 ? Math::tf32 : Math::float32;
    case Dtype::float16: return Math::float16;
    case Dtype::bfloat16: break;
  }
  return Math::bfloat16;
}

Activation activation_of(const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "silu") return Activation::silu;
  STD_TORCH_CHECK(false, "activation: expected none, relu, gelu or silu, got ", name);
}

Images images_of(const Tensor& t) { return {t.const_data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

int32_t small(int64_t v, const char* name) {
  STD_TORCH_CHECK(v <= INT32_MAX, name, ": expected sizes of less than 2^31");
  return static_cast<int32_t>(v);
}

int32_t output_size(const Window& w) {
  return (w.size + 2 * w.padding - w.dilation * (w.kernel - 1) - 1) / w.stride + 1;
}

// The convolution of x by weight along both axes.
std::array<Window, 2> windows_of(const Tensor& x, const Tensor& weight, const Pair& stride, const Pair& padding,
                                 const Pair& dilation) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == x.size(1) && weight.size(2) > 0 && weight.size(3) > 0,
                  "weight: expected (C_out, ", x.size(1), ", kH, kW)");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type(), "weight: expected the dtype of x");
  std::array<Window, 2> windows;
  for (int axis = 0; axis < 2; ++axis) {
    for (const Pair& pair : {stride, padding, dilation})
      STD_TORCH_CHECK(pair.size() == 2, "stride, padding, dilation: expected pairs");
    STD_TORCH_CHECK(stride[axis] > 0 && padding[axis] >= 0 && dilation[axis] > 0,
                    "stride, dilation: expected positive");
    windows[axis] = {small(x.size(2 + axis), "x"), small(weight.size(2 + axis), "weight"),
                     small(stride[axis], "stride"), small(padding[axis], "padding"), small(dilation[axis], "dilation")};
    STD_TORCH_CHECK(windows[axis].size + 2 * padding[axis] >= dilation[axis] * (windows[axis].kernel - 1) + 1,
                    "x: too small for the kernel");
  }
  return windows;
}

void set_weight(ConvArgs& a, const Tensor& weight) {
  a.weight = weight.const_data_ptr();
  a.wn = weight.stride(0), a.wc = weight.stride(1), a.wh = weight.stride(2), a.ww = weight.stride(3);
}

void set_out(ConvArgs& a, const Tensor& out) {
  a.out = out.mutable_data_ptr();
  a.on = out.stride(0), a.oc = out.stride(1), a.oh = out.stride(2), a.ow = out.stride(3);
  a.out_channels = small(out.size(1), "C_out"), a.out_h = small(out.size(2), "H"), a.out_w = small(out.size(3), "W");
}

void run(ConvArgs& a, const Tensor& like, Stream stream) {
  plan(a);
  Tensor packed = empty(like, {packed_bytes(a)}, ScalarType::Byte);
  a.packed = packed.mutable_data_ptr();
  convolve(a, stream);
}

// Σ over the elements of one base of the transposed convolution, in the frame of the image that they are permutations
// of.
void sum_members(ConvArgs a, const Matrix& base, const Tensor& out, Stream stream) {
  a.base = base;
  set_out(a, out);
  run(a, out, stream);
}

Tensor input_gradient(const Tensor& grad, const Tensor& x, const Tensor& weight, const std::array<Window, 2>& windows,
                      const TableOf& group, const std::string& padding_mode, bool tf32, Stream stream) {
  ConvArgs a = {};
  a.math = math_of(x, tf32);
  a.gradient = true;
  a.table = group.value;
  a.rows = windows[0], a.columns = windows[1];
  a.in = images_of(grad);
  a.batch = small(x.size(0), "B"), a.in_channels = small(grad.size(1), "C_out");
  a.in_h = small(grad.size(2), "grad"), a.in_w = small(grad.size(3), "grad");
  a.activation = Activation::none;
  set_weight(a, weight);

  std::vector<Matrix> bases;
  for (const Action& action : group.actions)
    if (std::find(bases.begin(), bases.end(), action.base) == bases.end()) bases.push_back(action.base);
  Tensor out = empty(x, {x.size(0), x.size(1), x.size(2), x.size(3)});
  if (bases.size() == 1 && bases[0].is_identity()) {
    sum_members(a, bases[0], out, stream);
    return out;
  }
  // Of each base, what its image would get; then through the transpose of its interpolation.
  a.wide_out = true;
  const int64_t count = bases.size();
  Tensor parts = empty(x, {count, x.size(0), x.size(1), x.size(2), x.size(3)}, wide(x));
  for (int64_t k = 0; k < count; ++k) {
    Tensor part = torch::stable::select(parts, 0, k);
    sum_members(a, bases[k], part, stream);
    if (bases[k].is_identity()) continue;
    const Matrix& m = bases[k];
    const Tensor moved =
        orbit_average(part, std::nullopt, {0, m.xx, m.xy, m.yx, m.yy}, {}, {}, padding_mode, /*adjoint=*/true);
    torch::stable::copy_(part, moved);
  }
  sum_parts({dtype_of(x, "x"), count, x.numel(), parts.const_data_ptr(), 1, out.mutable_data_ptr()}, stream);
  return out;
}

// The gradients of weight and bias; the latter empty unless asked for.
std::tuple<Tensor, Tensor> weight_gradient(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                           const std::array<Window, 2>& windows, const TableOf& group, bool bias,
                                           bool tf32, Stream stream) {
  WeightGradArgs a = {};
  a.math = math_of(x, tf32);
  a.table = group.value;
  a.rows = windows[0], a.columns = windows[1];
  a.in = images_of(x), a.grad = images_of(grad);
  a.batch = small(x.size(0), "B"), a.in_channels = small(x.size(1), "C");
  a.in_h = windows[0].size, a.in_w = windows[1].size;
  a.out_channels = small(grad.size(1), "C_out"), a.out_h = small(grad.size(2), "grad");
  a.out_w = small(grad.size(3), "grad");
  plan(a);
  const int64_t N = a.out_channels, n = weight.numel();
  Tensor partial = empty(x, {a.splits, n}, wide(x));
  a.partial = partial.mutable_data_ptr();
  std::optional<Tensor> partial_bias;
  if (bias) {
    partial_bias = empty(x, {a.splits, N}, wide(x));
    a.partial_bias = partial_bias->mutable_data_ptr();
  }
  grad_weight(a, stream);
  Tensor grad_weight = empty(x, {N, weight.size(1), weight.size(2), weight.size(3)}),
         grad_bias = empty(x, {bias ? N : 0});
  const Dtype dtype = dtype_of(x, "x");
  sum_parts({dtype, a.splits, n, a.partial, 1, grad_weight.mutable_data_ptr()}, stream);
  if (bias) sum_parts({dtype, a.splits, N, a.partial_bias, 1, grad_bias.mutable_data_ptr()}, stream);
  return {grad_weight, grad_bias};
}

}  // namespace

Tensor orbit_conv2d(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<double> table, Pair stride,
                    Pair padding, Pair dilation, std::string padding_mode, std::string activation, bool tf32) {
  const OnDeviceOf on(x);
  const auto windows = windows_of(x, weight, stride, padding, dilation);
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == weight.size(0)), "bias: expected (C_out,)");
  const TableOf group(x, table, {}, {}, padding_mode, on.stream);
  const bool last = suggests_channels_last(x) || suggests_channels_last(weight);
  const Tensor out = new_images(
      x, {group.value.order * x.size(0), weight.size(0), output_size(windows[0]), output_size(windows[1])}, last);
  if (out.numel() == 0) return out;
  if (bias) bias = torch::stable::contiguous(*bias);
  ConvArgs a = {};
  a.math = math_of(x, tf32);
  a.table = group.value;
  a.rows = windows[0], a.columns = windows[1];
  a.in = images_of(x);
  a.batch = small(x.size(0), "B"), a.in_channels = small(x.size(1), "C");
  a.in_h = windows[0].size, a.in_w = windows[1].size;
  a.bias = data_of(bias);
  a.activation = activation_of(activation);
  set_weight(a, weight);
  set_out(a, out);
  run(a, x, on.stream);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> orbit_conv2d_backward(Tensor grad, Tensor x, Tensor weight,
                                                         std::vector<double> table, Pair stride, Pair padding,
                                                         Pair dilation, std::string padding_mode,
                                                         std::vector<bool> needs, bool tf32) {
  const OnDeviceOf on(x);
  const auto windows = windows_of(x, weight, stride, padding, dilation);
  const TableOf group(x, table, {}, {}, padding_mode, on.stream);
  STD_TORCH_CHECK(needs.size() == 3, "needs: expected three");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "grad: expected the dtype of x");
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == group.value.order * x.size(0) && grad.size(1) == weight.size(0) &&
                      grad.size(2) == output_size(windows[0]) && grad.size(3) == output_size(windows[1]),
                  "grad: expected the shape of the output");
  const auto zeros = [](const Tensor& like, bool needed) {
    const int64_t none = 0;
    return needed ? torch::stable::new_zeros(like, like.sizes()) : torch::stable::new_zeros(like, {&none, 1});
  };
  if (grad.numel() == 0 || x.numel() == 0) {
    Tensor bias = empty(x, {needs[2] ? weight.size(0) : 0});
    if (needs[2] && grad.numel()) bias = torch::stable::sum(grad, std::array<int64_t, 3>{0, 2, 3});
    else torch::stable::zero_(bias);
    return {zeros(x, needs[0]), zeros(weight, needs[1]), bias};
  }
  Tensor grad_x =
      needs[0] ? input_gradient(grad, x, weight, windows, group, padding_mode, tf32, on.stream) : empty(x, {0});
  if (!needs[1] && !needs[2]) return {grad_x, empty(x, {0}), empty(x, {0})};
  auto [grad_weight, grad_bias] = weight_gradient(grad, x, weight, windows, group, needs[2], tf32, on.stream);
  return {grad_x, needs[1] ? grad_weight : empty(x, {0}), grad_bias};
}

}  // namespace equifast::cuda
