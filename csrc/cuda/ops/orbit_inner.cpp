// orbit_inner: the inner product of each element applied to u with v.
#include "cuda/runtime/library.h"
#include "cuda/runtime/resample_plan.h"

namespace equifast::cuda {
namespace {

Tensor orbit_inner(Tensor u, Tensor v, std::vector<double> table, OptionalIntegers permutation, OptionalNumbers mixing,
                   std::string padding_mode) {
  check_operands(u, v);
  const auto sizes = checked_sizes(u, "u");
  const OnDeviceOf device(u);
  const ResamplePlan plan(u, "u", sizes, table, permutation, mixing, padding_mode, /*adjoint=*/false, device.stream);
  const int64_t order = plan.resample.table.order;
  check_elements(v, order, "v");
  if (u.numel() == 0) return zeros(u, {sizes[0], order}, accumulate_dtype(u));
  InnerArgs args = {};
  args.v = v.const_data_ptr();
  args.v_layout = layout_of(v);
  args.resample = plan.tiled_along(args.v_layout);
  args.parts = Parts(args.resample.tiling, sizes[0]);
  Tensor partial = empty(u, {args.parts.count, sizes[0], order}, accumulate_dtype(u));
  args.partial = partial.mutable_data_ptr();
  launch_orbit_inner(args, device.stream);
  return sum_over_parts(partial, device.stream);
}

}  // namespace

EQUIFAST_REGISTER({"orbit_inner", TORCH_BOX(&orbit_inner)})

}  // namespace equifast::cuda
