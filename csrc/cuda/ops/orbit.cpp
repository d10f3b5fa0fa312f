// orbit: every element applied to every image.
#include "cuda/ops/orbit.h"

#include "cuda/runtime/library.h"
#include "cuda/runtime/resample_plan.h"

namespace equifast::cuda {

Tensor orbit(Tensor x, std::optional<Tensor> weights, std::vector<double> table, OptionalIntegers permutation,
             OptionalNumbers mixing, std::string padding_mode, bool adjoint) {
  check_one_batch(x, "x");
  const OnDeviceOf device(x);
  const auto sizes = checked_sizes(x, "x");
  const ResamplePlan plan(x, "x", sizes, table, permutation, mixing, padding_mode, adjoint, device.stream);
  Tensor out = new_images_like(x, plan.resample.table.order * sizes[0], sizes);
  if (out.numel() == 0) return out;
  ResampleArgs args = plan.writing(out);
  args.out_layout.e = sizes[0] * args.out_layout.b;
  set_weights(args, weights, x);
  launch_orbit(args, device.stream);
  return out;
}

EQUIFAST_REGISTER({"orbit", TORCH_BOX(&orbit)})

}  // namespace equifast::cuda
