// orbit_average: the weighted sum over the elements, each applied to its image.
#include <torch/csrc/stable/library.h>

#include "cpu/runtime/resample_plan.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

Tensor orbit_average(Tensor y, std::optional<Tensor> weights, std::vector<double> table, OptionalIntegers permutation,
                     OptionalNumbers mixing, std::string padding_mode, bool adjoint) {
  const auto sizes = image_sizes(y, "y");
  const ResamplePlan plan(y, "y", sizes, table, permutation, mixing, padding_mode,
                          {.adjoint = adjoint, .shared = y.dim() == 4, .keeps_format = true});
  const Resample& r = plan.resample;
  check_elements(y, r.order, "y");
  Tensor out = plan.new_outputs(y, r.B);
  const auto scale = dense_weights(weights, y, r.B, r.order);
  if (out.numel() == 0) return out;
  const Tensor dense = plan.readable(y);
  const ResampleArgs args = {.resample = r,
                             .in = images_of(dense),
                             .second = {},
                             .weights = data_of(scale),
                             .element = nullptr,
                             .images = r.B,
                             .out = out.mutable_data_ptr()};
  run(adjoint ? cpu_kernels().orbit_average_adjoint : cpu_kernels().orbit_average, args, r.B * r.channel_blocks());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) { m.impl("orbit_average", TORCH_BOX(&orbit_average)); }

}  // namespace equifast::cpu
