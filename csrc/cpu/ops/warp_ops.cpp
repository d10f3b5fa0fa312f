#include "cpu/ops/warp_ops.h"

#include <torch/headeronly/util/Exception.h>

namespace equifast {
namespace {

using torch::headeronly::ScalarType;

std::array<int64_t, 4> sizes_of(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4 || t.dim() == 5, name, ": expected (B, C, H, W) or (E, B, C, H, W), got ", t.dim(),
                  " dimensions");
  return {t.size(-4), t.size(-3), t.size(-2), t.size(-1)};
}

Tensor new_images(const Tensor& like, int64_t batch, const std::array<int64_t, 4>& s) {
  const std::array<int64_t, 4> sizes = {batch, s[1], s[2], s[3]};
  Tensor out = torch::stable::new_empty(like, {sizes.data(), 4});
  use_huge_pages(out);
  return out;
}

// The (B, E) weights in the accumulate type, dense.
std::optional<Tensor> dense_weights(const std::optional<Tensor>& weights, const Tensor& x, int64_t batch,
                                    int64_t order) {
  if (!weights) return std::nullopt;
  const auto wide = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(weights->dim() == 2 && weights->size(0) == batch && weights->size(1) == order, "weights: expected (",
                  batch, ", ", order, ")");
  STD_TORCH_CHECK(weights->scalar_type() == wide, "weights: expected the accumulate type of the images");
  return torch::stable::contiguous(*weights);
}

const void* data_of(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

}  // namespace

Tensor orbit(Tensor x, std::optional<Tensor> weights, std::vector<double> table, std::vector<int64_t> permutation,
             std::vector<double> mixing, std::string padding_mode, bool adjoint) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W), got ", x.dim(), " dimensions");
  const auto sizes = sizes_of(x, "x");
  WarpPlan plan(dtype_of(x, "x"), sizes, table, permutation, mixing, padding_mode,
                {.adjoint = adjoint, .shared = true, .by_rows = !adjoint});
  cpu::Warp& w = plan.warp;
  Tensor out = new_images(x, w.order * w.B, sizes);
  if (out.numel() == 0) return out;
  const Tensor dense = with_dense_rows(x);
  const auto scale = dense_weights(weights, x, w.B, w.order);
  cpu::WarpArgs args = {.warp = w,
                        .in = images_of(dense),
                        .other = {},
                        .weights = data_of(scale),
                        .element = nullptr,
                        .out = out.mutable_data_ptr()};
  const auto& kernels = cpu::cpu_kernels();
  if (adjoint) {
    run(kernels.orbit_adjoint, args, w.order * w.B * w.groups());
    return out;
  }
  // One task an image keeps it in cache for all elements; too few images, and each element and run of rows is a task.
  const int64_t threads = torch::stable::get_num_threads(), images = w.B * w.groups();
  cpu::Warp& work = args.warp;
  work.whole = images >= 2 * threads;
  work.reuse = w.reuse && work.whole;
  if (!work.whole)
    work.parts = std::clamp<int64_t>(4 * threads / (images * w.order), 1, std::max<int64_t>(w.H / 64, 1));
  run(kernels.orbit, args, (work.whole ? 1 : w.order) * images * work.parts);
  return out;
}

Tensor act(Tensor x, Tensor element, std::vector<double> table, std::vector<int64_t> permutation,
           std::vector<double> mixing, std::string padding_mode, bool adjoint) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W), got ", x.dim(), " dimensions");
  const auto sizes = sizes_of(x, "x");
  STD_TORCH_CHECK(element.dim() == 1 && element.size(0) == sizes[0] && element.scalar_type() == ScalarType::Long,
                  "element: expected ", sizes[0], " ids of type int64");
  WarpPlan plan(dtype_of(x, "x"), sizes, table, permutation, mixing, padding_mode,
                {.adjoint = adjoint, .by_rows = !adjoint});
  cpu::Warp& w = plan.warp;
  Tensor out = new_images(x, w.B, sizes);
  if (out.numel() == 0) return out;
  const Tensor dense = with_dense_rows(x), ids = torch::stable::contiguous(element);
  const auto* id = static_cast<const int64_t*>(ids.const_data_ptr());
  for (int64_t b = 0; b < w.B; ++b)
    STD_TORCH_CHECK(0 <= id[b] && id[b] < w.order, "element: expected ids in [0, ", w.order, "), got ", id[b], " at ",
                    b);
  const int64_t threads = torch::stable::get_num_threads(), images = w.B * w.groups();
  if (!adjoint) w.parts = std::clamp<int64_t>(4 * threads / images, 1, std::max<int64_t>(w.H / 64, 1));
  const cpu::WarpArgs args = {
      .warp = w, .in = images_of(dense), .other = {}, .weights = nullptr, .element = id, .out = out.mutable_data_ptr()};
  run(adjoint ? cpu::cpu_kernels().act_adjoint : cpu::cpu_kernels().act, args, images * w.parts);
  return out;
}

Tensor orbit_average(Tensor y, std::optional<Tensor> weights, std::vector<double> table,
                     std::vector<int64_t> permutation, std::vector<double> mixing, std::string padding_mode,
                     bool adjoint) {
  const auto sizes = sizes_of(y, "y");
  WarpPlan plan(dtype_of(y, "y"), sizes, table, permutation, mixing, padding_mode,
                {.adjoint = adjoint, .shared = y.dim() == 4});
  cpu::Warp& w = plan.warp;
  STD_TORCH_CHECK(y.dim() == 4 || y.size(0) == w.order, "y: expected ", w.order, " elements, got ", y.size(0));
  Tensor out = new_images(y, w.B, sizes);
  if (out.numel() == 0) return out;
  const Tensor dense = with_dense_rows(y);
  const auto scale = dense_weights(weights, y, w.B, w.order);
  const cpu::WarpArgs args = {.warp = w,
                              .in = images_of(dense),
                              .other = {},
                              .weights = data_of(scale),
                              .element = nullptr,
                              .out = out.mutable_data_ptr()};
  const auto& kernels = cpu::cpu_kernels();
  run(adjoint ? kernels.orbit_average_adjoint : kernels.orbit_average, args, w.B * w.groups());
  return out;
}

Tensor orbit_inner(Tensor u, Tensor v, std::vector<double> table, std::vector<int64_t> permutation,
                   std::vector<double> mixing, std::string padding_mode) {
  const auto sizes = sizes_of(u, "u");
  STD_TORCH_CHECK(sizes == sizes_of(v, "v"), "v: expected the batch, channels, height and width of u");
  STD_TORCH_CHECK(u.scalar_type() == v.scalar_type(), "v: expected the dtype of u");
  WarpPlan plan(dtype_of(u, "u"), sizes, table, permutation, mixing, padding_mode, {.shared = u.dim() == 4});
  cpu::Warp& w = plan.warp;
  for (const Tensor& t : {u, v})
    STD_TORCH_CHECK(t.dim() == 4 || t.size(0) == w.order, "expected ", w.order, " elements, got ", t.size(0));
  const auto wide = u.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const std::array<int64_t, 2> shape = {w.B, w.order};
  if (u.numel() == 0) return torch::stable::new_zeros(u, {shape.data(), 2}, wide);
  const Tensor dense_u = with_dense_rows(u), dense_v = with_dense_rows(v);
  std::vector<double> partial(w.B * w.C * w.order);
  const cpu::WarpArgs args = {.warp = w,
                              .in = images_of(dense_u),
                              .other = images_of(dense_v),
                              .weights = nullptr,
                              .element = nullptr,
                              .out = partial.data()};
  run(cpu::cpu_kernels().orbit_inner, args, w.B * w.groups());

  Tensor out = torch::stable::new_empty(u, {shape.data(), 2}, wide);
  void* data = out.mutable_data_ptr();
  for (int64_t b = 0; b < w.B; ++b)
    for (int64_t e = 0; e < w.order; ++e) {
      double sum = 0;
      for (int64_t c = 0; c < w.C; ++c) sum += partial[(b * w.C + c) * w.order + e];
      if (wide == ScalarType::Double) static_cast<double*>(data)[b * w.order + e] = sum;
      else static_cast<float*>(data)[b * w.order + e] = static_cast<float>(sum);
    }
  return out;
}

}  // namespace equifast
