// angle_inner: the derivatives of ⟨grad, canonical image⟩ by the angle and by the reflection flag of each image.
#include "cuda/runtime/library.h"
#include "cuda/runtime/resample_plan.h"

namespace equifast::cuda {
namespace {

Tensor angle_inner(Tensor x, Tensor image, Tensor grad, Tensor element, std::vector<double> table, int64_t turns,
                   std::string padding_mode) {
  check_one_batch(x, "x");
  const auto sizes = checked_sizes(x, "x");
  for (const Tensor& t : {image, grad}) {
    STD_TORCH_CHECK(t.dim() == 4 && image_sizes(t, "image, grad") == sizes, "image, grad: expected the shape of x");
    STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), "image, grad: expected the dtype of x");
  }
  check_ids(element, sizes[0]);
  const OnDeviceOf device(x);
  const ResamplePlan plan(x, "x", sizes, table, {}, {}, padding_mode, /*adjoint=*/false, device.stream);
  STD_TORCH_CHECK(0 < turns && turns <= plan.resample.table.order, "turns: expected 1 to ", plan.resample.table.order,
                  ", got ", turns);
  if (x.numel() == 0) return zeros(x, {sizes[0], 2}, accumulate_dtype(x));
  AngleArgs args = {};
  args.resample = plan.tiled_along(plan.resample.in_layout);
  args.turns = static_cast<int32_t>(turns);
  args.element = static_cast<const int64_t*>(element.const_data_ptr());
  args.element_b = element.stride(0);
  args.image = image.const_data_ptr(), args.grad = grad.const_data_ptr();
  args.image_layout = layout_of(image), args.grad_layout = layout_of(grad);
  args.parts = Parts(args.resample.tiling, sizes[0]);
  Tensor partial = empty(x, {args.parts.count, sizes[0], 2}, accumulate_dtype(x));
  args.partial = partial.mutable_data_ptr();
  launch_angle_inner(args, device.stream);
  return sum_over_parts(partial, device.stream);
}

}  // namespace

EQUIFAST_REGISTER({"angle_inner", TORCH_BOX(&angle_inner)})

}  // namespace equifast::cuda
