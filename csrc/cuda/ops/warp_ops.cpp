#include "cuda/ops/warp_ops.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "cuda/kernels/resample.h"
#include "cuda/runtime/sum_parts.h"
#include "cuda/runtime/table_on_device.h"

namespace equifast::cuda {
namespace {

Layout layout_of(const Tensor& t) {
  Layout s = {.e = t.dim() == 5 ? t.stride(0) : 0,
              .b = t.stride(-4),
              .c = t.stride(-3),
              .h = t.stride(-2),
              .w = t.stride(-1),
              .rows = false,
              .quads = false};
  // Whether whatever lies beside it begins a multiple of that many bytes away.
  const auto aligned = [&](int64_t together, int64_t bytes) {
    if (reinterpret_cast<uintptr_t>(t.const_data_ptr()) % bytes != 0) return false;
    for (int64_t d = 0; d < t.dim(); ++d)
      if (d != together && t.size(d) > 1 && t.stride(d) * t.element_size() % bytes != 0) return false;
    return t.stride(together) == 1 && t.size(together) * t.element_size() % bytes == 0;
  };
  s.rows = aligned(t.dim() - 1, 16);
  s.quads = t.size(-3) % kQuad == 0 && aligned(t.dim() - 3, std::min<int64_t>(kQuad * t.element_size(), 16));
  return s;
}

std::array<int64_t, 4> sizes_of(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4 || t.dim() == 5, name, ": expected (B, C, H, W) or (E, B, C, H, W), got ", t.dim(),
                  " dimensions");
  STD_TORCH_CHECK(t.size(-1) <= INT32_MAX / 2 && t.size(-2) <= INT32_MAX / 2 && t.size(-3) <= INT32_MAX / 2, name,
                  ": expected at most 2^30 channels, rows and columns");
  return {t.size(-4), t.size(-3), t.size(-2), t.size(-1)};
}

// Of the type and memory format of `like`, whose last dimensions are `sizes`.
Tensor new_images_like(const Tensor& like, int64_t batch, const std::array<int64_t, 4>& sizes) {
  return new_images(like, {batch, sizes[1], sizes[2], sizes[3]}, suggests_channels_last(like));
}

bool channels_together(const Layout& s) { return s.c == 1 && s.w > 1; }

// A table of a group's action on images, and what kernels are told of both.
struct Plan {
  Plan(const Tensor& x, const std::array<int64_t, 4>& sizes, const std::vector<double>& table,
       const std::vector<int64_t>& permutation, const std::vector<double>& mixing, const std::string& padding_mode,
       bool adjoint, Stream stream)
      : table_(x, table, permutation, mixing, padding_mode, stream) {
    transform = {.dtype = dtype_of(x, "images"),
                 .adjoint = adjoint,
                 .table = table_.value,
                 .tiling = {},
                 .B = sizes[0],
                 .C = static_cast<int32_t>(sizes[1]),
                 .H = static_cast<int32_t>(sizes[2]),
                 .W = static_cast<int32_t>(sizes[3]),
                 .in = x.const_data_ptr(),
                 .from = layout_of(x)};
    transform.from.quads = transform.from.quads && !transform.table.block;
    STD_TORCH_CHECK(x.dim() == 4 || x.size(0) == transform.table.order, "expected ", transform.table.order,
                    " elements, got ", x.size(0));
  }

  // s: of the images that threads should follow.
  Transform tiled_along(const Layout& s) {
    transform.tiling = Tiling(transform.C, transform.H, transform.W, channels_together(s));
    return transform;
  }

  Transform transform;

 private:
  TableOf table_;
};

void set_weights(WarpArgs& a, const std::optional<Tensor>& weights, const Tensor& x) {
  if (!weights) return;
  const Transform& w = a.transform;
  STD_TORCH_CHECK(weights->dim() == 2 && weights->size(0) == w.B && weights->size(1) == w.table.order,
                  "weights: expected (", w.B, ", ", w.table.order, ")");
  STD_TORCH_CHECK(weights->scalar_type() == wide(x), "weights: expected the accumulate type of the images");
  a.weights = weights->const_data_ptr();
  a.weight_b = weights->stride(0), a.weight_e = weights->stride(1);
}

// The arguments of a kernel that writes to the images `out`.
WarpArgs move(Plan& plan, Tensor& out) {
  WarpArgs a = {};
  a.to = layout_of(out);
  a.transform = plan.tiled_along(a.to);
  a.out = out.mutable_data_ptr();
  return a;
}

// (B, n) in the accumulate type: the sums of `partial` over its parts.
Tensor sum(const Tensor& partial, const Tensor& images) {
  Tensor out = empty(images, {partial.size(1), partial.size(2)}, wide(images));
  const OnDeviceOf here(images);
  sum_parts({.dtype = dtype_of(out, "sums"),
             .parts = partial.size(0),
             .n = out.numel(),
             .partial = partial.const_data_ptr(),
             .scale = 1,
             .out = out.mutable_data_ptr()},
            here.stream);
  return out;
}

}  // namespace

Tensor orbit(Tensor x, std::optional<Tensor> weights, std::vector<double> table, std::vector<int64_t> permutation,
             std::vector<double> mixing, std::string padding_mode, bool adjoint) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W), got ", x.dim(), " dimensions");
  const OnDeviceOf here(x);
  const auto sizes = sizes_of(x, "x");
  Plan plan(x, sizes, table, permutation, mixing, padding_mode, adjoint, here.stream);
  const int64_t order = plan.transform.table.order;
  Tensor out = new_images_like(x, order * sizes[0], sizes);
  if (out.numel() == 0) return out;
  WarpArgs args = move(plan, out);
  args.to.e = sizes[0] * args.to.b;
  set_weights(args, weights, x);
  orbit(args, here.stream);
  return out;
}

Tensor act(Tensor x, Tensor element, std::vector<double> table, std::vector<int64_t> permutation,
           std::vector<double> mixing, std::string padding_mode, bool adjoint) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W), got ", x.dim(), " dimensions");
  const auto sizes = sizes_of(x, "x");
  STD_TORCH_CHECK(element.dim() == 1 && element.size(0) == sizes[0] && element.scalar_type() == ScalarType::Long,
                  "element: expected ", sizes[0], " ids of type int64");
  const OnDeviceOf here(x);
  Plan plan(x, sizes, table, permutation, mixing, padding_mode, adjoint, here.stream);
  Tensor out = new_images_like(x, sizes[0], sizes);
  if (out.numel() == 0) return out;
  WarpArgs args = move(plan, out);
  args.element = static_cast<const int64_t*>(element.const_data_ptr());
  args.element_b = element.stride(0);
  act(args, here.stream);
  return out;
}

Tensor orbit_average(Tensor y, std::optional<Tensor> weights, std::vector<double> table,
                     std::vector<int64_t> permutation, std::vector<double> mixing, std::string padding_mode,
                     bool adjoint) {
  const auto sizes = sizes_of(y, "y");
  const OnDeviceOf here(y);
  Plan plan(y, sizes, table, permutation, mixing, padding_mode, adjoint, here.stream);
  Tensor out = new_images_like(y, sizes[0], sizes);
  if (out.numel() == 0) return out;
  WarpArgs args = move(plan, out);
  set_weights(args, weights, y);
  orbit_average(args, here.stream);
  return out;
}

Tensor orbit_inner(Tensor u, Tensor v, std::vector<double> table, std::vector<int64_t> permutation,
                   std::vector<double> mixing, std::string padding_mode) {
  const auto sizes = sizes_of(u, "u");
  STD_TORCH_CHECK(sizes == sizes_of(v, "v"), "v: expected the batch, channels, height and width of u");
  STD_TORCH_CHECK(u.scalar_type() == v.scalar_type(), "v: expected the dtype of u");
  const OnDeviceOf here(u);
  Plan plan(u, sizes, table, permutation, mixing, padding_mode, false, here.stream);
  const int64_t order = plan.transform.table.order;
  STD_TORCH_CHECK(v.dim() == 4 || v.size(0) == order, "v: expected ", order, " elements, got ", v.size(0));
  if (u.numel() == 0) {
    const std::array<int64_t, 2> shape = {sizes[0], order};
    return torch::stable::new_zeros(u, {shape.data(), 2}, wide(u));
  }
  InnerArgs args = {};
  args.other = v.const_data_ptr();
  args.other_from = layout_of(v);
  args.transform = plan.tiled_along(args.other_from);
  args.parts = Parts(args.transform.tiling, sizes[0]);
  Tensor partial = empty(u, {args.parts.count, sizes[0], order}, wide(u));
  args.partial = partial.mutable_data_ptr();
  orbit_inner(args, here.stream);
  return sum(partial, u);
}

Tensor angle_inner(Tensor x, Tensor image, Tensor grad, Tensor element, std::vector<double> table, int64_t turns,
                   std::string padding_mode) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W), got ", x.dim(), " dimensions");
  const auto sizes = sizes_of(x, "x");
  for (const Tensor& t : {image, grad}) {
    STD_TORCH_CHECK(t.dim() == 4 && sizes_of(t, "image, grad") == sizes, "image, grad: expected the shape of x");
    STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), "image, grad: expected the dtype of x");
  }
  STD_TORCH_CHECK(element.dim() == 1 && element.size(0) == sizes[0] && element.scalar_type() == ScalarType::Long,
                  "element: expected ", sizes[0], " ids of type int64");
  const OnDeviceOf here(x);
  Plan plan(x, sizes, table, {}, {}, padding_mode, false, here.stream);
  STD_TORCH_CHECK(0 < turns && turns <= plan.transform.table.order, "turns: expected 1 to ", plan.transform.table.order,
                  ", got ", turns);
  if (x.numel() == 0) {
    const std::array<int64_t, 2> shape = {sizes[0], 2};
    return torch::stable::new_zeros(x, {shape.data(), 2}, wide(x));
  }
  AngleArgs args = {};
  args.transform = plan.tiled_along(layout_of(x));
  args.turns = static_cast<int32_t>(turns);
  args.element = static_cast<const int64_t*>(element.const_data_ptr());
  args.element_b = element.stride(0);
  args.image = image.const_data_ptr(), args.grad = grad.const_data_ptr();
  args.image_from = layout_of(image), args.grad_from = layout_of(grad);
  args.parts = Parts(args.transform.tiling, sizes[0]);
  Tensor partial = empty(x, {args.parts.count, sizes[0], 2}, wide(x));
  args.partial = partial.mutable_data_ptr();
  angle_inner(args, here.stream);
  return sum(partial, x);
}

}  // namespace equifast::cuda
