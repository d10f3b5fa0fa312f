#include "cuda/runtime/resample_plan.h"

#include <algorithm>
#include <cstdint>

#include "cuda/runtime/lines.h"
#include "cuda/runtime/sum_parts.h"

namespace equifast::cuda {

Layout layout_of(const Tensor& t) {
  // Whether values along `axis` can be read so many bytes at a time: they are neighbours, and every run of them begins
  // at a multiple of that.
  const auto aligned = [&](int64_t axis, int64_t bytes) {
    if (reinterpret_cast<uintptr_t>(t.const_data_ptr()) % bytes != 0) return false;
    for (int64_t d = 0; d < t.dim(); ++d)
      if (d != axis && t.size(d) > 1 && t.stride(d) * t.element_size() % bytes != 0) return false;
    return t.stride(axis) == 1 && t.size(axis) * t.element_size() % bytes == 0;
  };
  const int64_t quad_bytes = std::min<int64_t>(kQuad * t.element_size(), 16);
  return {.e = t.dim() == 5 ? t.stride(0) : 0,
          .b = t.stride(-4),
          .c = t.stride(-3),
          .h = t.stride(-2),
          .w = t.stride(-1),
          .vector_rows = aligned(t.dim() - 1, 16),
          .vector_quads = t.size(-3) % kQuad == 0 && aligned(t.dim() - 3, quad_bytes)};
}

std::array<int64_t, 4> checked_sizes(const Tensor& t, const char* name) {
  const auto sizes = image_sizes(t, name);
  STD_TORCH_CHECK(sizes[1] <= INT32_MAX / 2 && sizes[2] <= INT32_MAX / 2 && sizes[3] <= INT32_MAX / 2, name,
                  ": expected at most 2^30 channels, rows and columns");
  return sizes;
}

Tensor new_images_like(const Tensor& like, int64_t batch, const std::array<int64_t, 4>& sizes) {
  return new_images(like, {batch, sizes[1], sizes[2], sizes[3]}, suggests_channels_last(like));
}

ResamplePlan::ResamplePlan(const Tensor& images, const char* name, const std::array<int64_t, 4>& sizes,
                           const std::vector<double>& table, const OptionalIntegers& permutation,
                           const OptionalNumbers& mixing, const std::string& padding_mode, bool adjoint, Stream stream)
    : table_(images, table, permutation, mixing, padding_mode, stream) {
  resample = {.dtype = dtype_of(images, name),
              .adjoint = adjoint,
              .table = table_.table,
              .tiling = {},
              .B = sizes[0],
              .C = static_cast<int32_t>(sizes[1]),
              .H = static_cast<int32_t>(sizes[2]),
              .W = static_cast<int32_t>(sizes[3]),
              .in = images.const_data_ptr(),
              .in_layout = layout_of(images),
              .lines = nullptr};
  // An element that permutes channels reads those of a quad from different places.
  resample.in_layout.vector_quads = resample.in_layout.vector_quads && !resample.table.permutation_size;
  check_elements(images, resample.table.order, name);
  if (!adjoint || !resample.table.interpolates || images.numel() == 0) return;
  const int64_t lines = resample.table.order * (sizes[2] + sizes[3]);
  lines_ = empty(images, {lines * static_cast<int64_t>(sizeof(Offsets))}, ScalarType::Byte);
  auto* out = static_cast<Offsets*>(lines_->mutable_data_ptr());
  list_lines({.table = resample.table, .H = resample.H, .W = resample.W, .out = out}, stream);
  resample.lines = out;
}

Resample ResamplePlan::tiled_along(const Layout& layout) const {
  Resample tiled = resample;
  const bool channels_together = layout.c == 1 && layout.w > 1;
  tiled.tiling = Tiling(resample.C, resample.H, resample.W, channels_together);
  return tiled;
}

ResampleArgs ResamplePlan::writing(const Tensor& out) const {
  ResampleArgs args = {};
  args.out_layout = layout_of(out);
  args.resample = tiled_along(args.out_layout);
  args.out = out.mutable_data_ptr();
  return args;
}

void set_weights(ResampleArgs& args, const std::optional<Tensor>& weights, const Tensor& images) {
  if (!weights) return;
  check_weights(*weights, images, args.resample.B, args.resample.table.order);
  args.weights = weights->const_data_ptr();
  args.weight_b = weights->stride(0), args.weight_e = weights->stride(1);
}

Tensor sum_over_parts(const Tensor& partial, Stream stream) {
  Tensor out = empty(partial, {partial.size(1), partial.size(2)});
  sum_parts({.dtype = dtype_of(out, "sums"),
             .parts = partial.size(0),
             .n = out.numel(),
             .partial = partial.const_data_ptr(),
             .scale = 1,
             .out = out.mutable_data_ptr()},
            stream);
  return out;
}

}  // namespace equifast::cuda
