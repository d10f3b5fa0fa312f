// act: one element applied to each image.
#include "cuda/runtime/library.h"
#include "cuda/runtime/resample_plan.h"

namespace equifast::cuda {
namespace {

Tensor act(Tensor x, Tensor element, std::vector<double> table, OptionalIntegers permutation, OptionalNumbers mixing,
           std::string padding_mode, bool adjoint) {
  check_one_batch(x, "x");
  auto sizes = checked_sizes(x, "x");
  check_repeated_ids(element, sizes[0]);
  sizes[0] = element.size(0);
  const OnDeviceOf device(x);
  const ResamplePlan plan(x, "x", sizes, table, permutation, mixing, padding_mode, adjoint, device.stream);
  Tensor out = new_images_like(x, sizes[0], sizes);
  if (out.numel() == 0) return out;
  ResampleArgs args = plan.writing(out);
  args.element = static_cast<const int64_t*>(element.const_data_ptr());
  args.element_b = element.stride(0);
  args.images = static_cast<uint32_t>(x.size(0));
  launch_act(args, device.stream);
  return out;
}

}  // namespace

EQUIFAST_REGISTER({"act", TORCH_BOX(&act)})

}  // namespace equifast::cuda
