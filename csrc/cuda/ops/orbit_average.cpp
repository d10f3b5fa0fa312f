// orbit_average: the weighted sum over the elements, each applied to its image.
#include "cuda/ops/orbit_average.h"

#include "cuda/runtime/library.h"
#include "cuda/runtime/resample_plan.h"

namespace equifast::cuda {

Tensor orbit_average(Tensor y, std::optional<Tensor> weights, std::vector<double> table, OptionalIntegers permutation,
                     OptionalNumbers mixing, std::string padding_mode, bool adjoint) {
  const auto sizes = checked_sizes(y, "y");
  const OnDeviceOf device(y);
  const ResamplePlan plan(y, "y", sizes, table, permutation, mixing, padding_mode, adjoint, device.stream);
  Tensor out = new_images_like(y, sizes[0], sizes);
  if (out.numel() == 0) return out;
  ResampleArgs args = plan.writing(out);
  set_weights(args, weights, y);
  launch_orbit_average(args, device.stream);
  return out;
}

EQUIFAST_REGISTER({"orbit_average", TORCH_BOX(&orbit_average)})

}  // namespace equifast::cuda
