// orbit_conv2d: the convolution of every member of the orbit, and its gradients.
#include "common/convolution.h"

#include <algorithm>

#include "cuda/ops/orbit.h"
#include "cuda/ops/orbit_average.h"
#include "cuda/runtime/conv_members.h"
#include "cuda/runtime/conv_plan.h"
#include "cuda/runtime/images.h"
#include "cuda/runtime/library.h"
#include "cuda/runtime/sum_parts.h"

namespace equifast::cuda {
namespace {

using Pair = std::vector<int64_t>;

// The bytes of base images that the forward pass has at once: what the cache of a large GPU holds. Not measured.
constexpr int64_t kBaseBytes = int64_t(32) << 20;

Math math_of(const Tensor& t, bool tf32) {
  switch (dtype_of(t, "x")) {
    case Dtype::float64: return Math::float64;
    case Dtype::float32: return tf32 ? Math::tf32 : Math::float32;
    case Dtype::float16: return Math::float16;
    case Dtype::bfloat16: break;
  }
  return Math::bfloat16;
}

StridedInput strided_input(const Tensor& t) {
  return {t.const_data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

std::array<Window, 2> checked_windows(const Tensor& x, const Tensor& weight, const Pair& stride, const Pair& padding,
                                      const Pair& dilation) {
  check_weight(weight, x);
  return windows_of(x, {weight.size(2), weight.size(3)}, stride, padding, dilation);
}

// The sizes of the images that a product reads.
template <class Args>
void set_input(Args& args, const Tensor& in, int64_t batch) {
  args.in = strided_input(in);
  args.batch = to_int32(batch, "B");
  args.in_channels = to_int32(in.size(1), "C");
  args.in_h = to_int32(in.size(2), "H"), args.in_w = to_int32(in.size(3), "W");
}

void set_output(ConvArgs& args, const Tensor& out) {
  args.out = {out.mutable_data_ptr(), out.stride(0), out.stride(1), out.stride(2), out.stride(3)};
  args.out_channels = to_int32(out.size(1), "C_out");
  args.out_h = to_int32(out.size(2), "H"), args.out_w = to_int32(out.size(3), "W");
}

void convolve(const ConvArgs& args, const Tensor& like, Stream stream) {
  ConvPlan plan = plan_convolution(args);
  Tensor packed = empty(like, {plan.packed_bytes()}, ScalarType::Byte);
  plan.args.packed = packed.mutable_data_ptr();
  launch_orbit_conv2d(plan, stream);
}

// The base images of x (K·B, C, H, W); none if all members permute x.
std::optional<Tensor> base_images(const Tensor& x, const MembersOnDevice& orbit_members,
                                  const std::string& padding_mode) {
  if (orbit_members.bases.empty()) return std::nullopt;
  return orbit(x, std::nullopt, orbit_members.base_rows(), std::nullopt, std::nullopt, padding_mode, /*adjoint=*/false);
}

// The gradient of x. All elements of one base are permutations of one base image: the transposed convolutions of their
// gradients are summed in its frame. The transpose of its interpolation then leads to the frame of x.
Tensor input_gradient(const Tensor& grad, const Tensor& x, const Tensor& weight, const std::array<Window, 2>& windows,
                      const MembersOnDevice& orbit_members, const std::string& padding_mode, bool tf32, Stream stream) {
  ConvArgs args = {};
  args.math = math_of(x, tf32);
  args.gradient = true;
  args.members = orbit_members.members;
  args.rows = windows[0], args.columns = windows[1];
  set_input(args, grad, x.size(0));
  args.weight = strided_input(weight);
  const auto sum_members = [&](int32_t source, const Tensor& out) {
    args.source = source;
    set_output(args, out);
    convolve(args, out, stream);
  };

  Tensor out = empty(x, {x.size(0), x.size(1), x.size(2), x.size(3)});
  if (orbit_members.bases.empty()) {
    sum_members(0, out);
    return out;
  }
  args.out_is_sum = true;
  const int64_t exact = orbit_members.has_exact, count = exact + static_cast<int64_t>(orbit_members.bases.size());
  Tensor parts = empty(x, {count, x.size(0), x.size(1), x.size(2), x.size(3)}, accumulate_dtype(x));
  for (int64_t k = 0; k < count; ++k) {
    Tensor part = torch::stable::select(parts, 0, k);
    const auto source = static_cast<int32_t>(k + 1 - exact);
    sum_members(source, part);
    if (source == 0) continue;
    const Matrix& base = orbit_members.bases[source - 1];
    const std::vector<double> row = {0, base.xx, base.xy, base.yx, base.yy};
    torch::stable::copy_(part, orbit_average(part, std::nullopt, row, {}, {}, padding_mode, /*adjoint=*/true));
  }
  sum_parts({.dtype = dtype_of(x, "x"),
             .parts = count,
             .n = x.numel(),
             .partial = parts.const_data_ptr(),
             .scale = 1,
             .out = out.mutable_data_ptr()},
            stream);
  return out;
}

// The gradients of weight and bias; that of bias is empty unless it is wanted.
std::tuple<Tensor, Tensor> weight_gradient(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                           const std::array<Window, 2>& windows, const MembersOnDevice& orbit_members,
                                           const std::string& padding_mode, bool wants_bias, bool tf32, Stream stream) {
  GradWeightArgs args = {};
  args.math = math_of(x, tf32);
  args.members = orbit_members.members;
  args.rows = windows[0], args.columns = windows[1];
  set_input(args, x, x.size(0));
  const auto bases = base_images(x, orbit_members, padding_mode);
  if (bases) args.bases = strided_input(*bases);
  args.grad = strided_input(grad);
  args.out_channels = to_int32(grad.size(1), "C_out");
  args.out_h = to_int32(grad.size(2), "grad"), args.out_w = to_int32(grad.size(3), "grad");
  GradWeightPlan plan = plan_grad_weight(args);

  const int64_t splits = plan.args.splits, channels = weight.size(0);
  const ScalarType sum_dtype = accumulate_dtype(x);
  Tensor partial = empty(x, {splits, weight.numel()}, sum_dtype),
         partial_bias = empty(x, {splits, wants_bias ? channels : 0}, sum_dtype);
  plan.args.partial = partial.mutable_data_ptr();
  plan.args.partial_bias = wants_bias ? partial_bias.mutable_data_ptr() : nullptr;
  launch_orbit_conv2d_grad_weight(plan, stream);

  Tensor grad_weight = empty(x, {channels, weight.size(1), weight.size(2), weight.size(3)}),
         grad_bias = empty(x, {wants_bias ? channels : 0});
  const auto sum_splits = [&](const Tensor& sums, Tensor& out) {
    sum_parts({.dtype = dtype_of(x, "x"),
               .parts = splits,
               .n = out.numel(),
               .partial = sums.const_data_ptr(),
               .scale = 1,
               .out = out.mutable_data_ptr()},
              stream);
  };
  sum_splits(partial, grad_weight);
  if (wants_bias) sum_splits(partial_bias, grad_bias);
  return {grad_weight, grad_bias};
}

Tensor orbit_conv2d(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<double> rows, Pair stride,
                    Pair padding, Pair dilation, std::string padding_mode, std::string activation, bool tf32) {
  const OnDeviceOf device(x);
  const auto windows = checked_windows(x, weight, stride, padding, dilation);
  if (bias) check_bias(*bias, weight);
  const ActionTable table(x.size(1), x.size(2), x.size(3), rows, {}, {}, padding_mode);
  const MembersOnDevice orbit_members(x, table, device.stream);
  const bool channels_last = suggests_channels_last(x) || suggests_channels_last(weight);
  const std::array<int64_t, 4> sizes = {table.order() * x.size(0), weight.size(0), windows[0].output_size(),
                                        windows[1].output_size()};
  const Tensor out = new_images(x, sizes, channels_last);
  if (out.numel() == 0) return out;
  if (bias) bias = torch::stable::contiguous(*bias);
  ConvArgs args = {};
  args.math = math_of(x, tf32);
  args.members = orbit_members.members;
  args.rows = windows[0], args.columns = windows[1];
  args.weight = strided_input(weight);
  args.bias = data_of(bias);
  args.activation = activation_of(activation);
  args.all_images = to_int32(x.size(0), "B");
  set_output(args, out);
  // As many images at a time as kBaseBytes have room for.
  const int64_t image_bytes = x.size(1) * x.size(2) * x.size(3) * x.element_size() * orbit_members.bases.size();
  const int64_t at_once = image_bytes == 0 ? x.size(0) : std::max<int64_t>(kBaseBytes / image_bytes, 1);
  for (int64_t b = 0; b < x.size(0); b += at_once) {
    Tensor all = x;
    const Tensor images = torch::stable::narrow(all, 0, b, std::min(at_once, x.size(0) - b));
    const auto bases = base_images(images, orbit_members, padding_mode);
    set_input(args, images, images.size(0));
    if (bases) args.bases = strided_input(*bases);
    args.out.data = static_cast<unsigned char*>(out.mutable_data_ptr()) + b * args.out.n * out.element_size();
    convolve(args, x, device.stream);
  }
  return out;
}

// The gradients of x, weight and bias; those that `needs` leaves out are empty.
std::tuple<Tensor, Tensor, Tensor> orbit_conv2d_backward(Tensor grad, Tensor x, Tensor weight, std::vector<double> rows,
                                                         Pair stride, Pair padding, Pair dilation,
                                                         std::string padding_mode, std::vector<bool> needs, bool tf32) {
  const OnDeviceOf device(x);
  const auto windows = checked_windows(x, weight, stride, padding, dilation);
  const ActionTable table(x.size(1), x.size(2), x.size(3), rows, {}, {}, padding_mode);
  STD_TORCH_CHECK(needs.size() == 3, "needs: expected three");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "grad: expected the dtype of x");
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == table.order() * x.size(0) && grad.size(1) == weight.size(0) &&
                      grad.size(2) == windows[0].output_size() && grad.size(3) == windows[1].output_size(),
                  "grad: expected the shape of the output");
  const bool needs_x = needs[0], needs_weight = needs[1], needs_bias = needs[2];
  const auto none = [&] { return empty(x, {0}); };
  if (grad.numel() == 0 || x.numel() == 0) {
    Tensor grad_bias = zeros(x, {needs_bias ? weight.size(0) : 0});
    if (needs_bias && grad.numel()) grad_bias = torch::stable::sum(grad, std::array<int64_t, 3>{0, 2, 3});
    return {needs_x ? torch::stable::new_zeros(x, x.sizes()) : none(),
            needs_weight ? torch::stable::new_zeros(weight, weight.sizes()) : none(), grad_bias};
  }
  const MembersOnDevice orbit_members(x, table, device.stream);
  const Tensor grad_x =
      needs_x ? input_gradient(grad, x, weight, windows, orbit_members, padding_mode, tf32, device.stream) : none();
  if (!needs_weight && !needs_bias) return {grad_x, none(), none()};
  const auto [grad_weight, grad_bias] =
      weight_gradient(grad, x, weight, windows, orbit_members, padding_mode, needs_bias, tf32, device.stream);
  return {grad_x, needs_weight ? grad_weight : none(), grad_bias};
}

}  // namespace

EQUIFAST_REGISTER({"orbit_conv2d", TORCH_BOX(&orbit_conv2d), /*takes_tf32=*/true},
                  {"orbit_conv2d_backward", TORCH_BOX(&orbit_conv2d_backward), /*takes_tf32=*/true})

}  // namespace equifast::cuda
