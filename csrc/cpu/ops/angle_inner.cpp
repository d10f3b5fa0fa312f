// angle_inner: the derivatives of ⟨grad, canonical image⟩ by the angle and by the reflection flag of each image.
#include <torch/csrc/stable/library.h>

#include "cpu/runtime/resample_plan.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

Tensor angle_inner(Tensor x, Tensor image, Tensor grad, Tensor element, std::vector<double> table, int64_t turns,
                   std::string padding_mode) {
  check_one_batch(x, "x");
  const auto sizes = image_sizes(x, "x");
  for (const Tensor& t : {image, grad}) {
    STD_TORCH_CHECK(t.dim() == 4 && image_sizes(t, "image, grad") == sizes, "image, grad: expected the shape of x");
    STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), "image, grad: expected the dtype of x");
  }
  check_ids(element, sizes[0]);
  ResamplePlan plan(x, "x", sizes, table, {}, {}, padding_mode, {});
  const Resample& r = plan.resample;
  STD_TORCH_CHECK(0 < turns && turns <= r.order, "turns: expected 1 to ", r.order, ", got ", turns);
  STD_TORCH_CHECK((r.H + 4) * (r.W + 4) <= INT32_MAX, "x: expected planes of less than 2^31 pixels");
  if (x.numel() == 0) return zeros(x, {r.B, 2}, accumulate_dtype(x));
  const std::vector<Tensor> operands = plan.gatherable({x, image, grad});
  const Tensor ids = checked_ids(element, r.order);
  std::vector<double> partial(r.B * r.C * 2);
  const AngleArgs args = {.resample = r,
                          .in = images_of(operands[0]),
                          .image = images_of(operands[1]),
                          .grad = images_of(operands[2]),
                          .element = static_cast<const int64_t*>(ids.const_data_ptr()),
                          .turns = turns,
                          .out = partial.data()};
  run(cpu_kernels().angle_inner, args, r.B * r.channel_blocks());
  return sum_over_channels(partial, x, r, 2);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) { m.impl("angle_inner", TORCH_BOX(&angle_inner)); }

}  // namespace equifast::cpu
