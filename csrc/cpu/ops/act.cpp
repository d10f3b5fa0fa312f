// act: one element applied to each image.
#include <torch/csrc/stable/library.h>

#include "cpu/runtime/resample_plan.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

Tensor act(Tensor x, Tensor element, std::vector<double> table, OptionalIntegers permutation, OptionalNumbers mixing,
           std::string padding_mode, bool adjoint) {
  check_one_batch(x, "x");
  auto sizes = image_sizes(x, "x");
  check_repeated_ids(element, sizes[0]);
  sizes[0] = element.size(0);
  ResamplePlan plan(x, "x", sizes, table, permutation, mixing, padding_mode,
                    {.adjoint = adjoint, .one_each = true, .by_rows = !adjoint, .keeps_format = true});
  Resample& r = plan.resample;
  Tensor out = plan.new_outputs(x, r.B);
  if (out.numel() == 0) return out;
  const Tensor dense = plan.readable(x), ids = checked_ids(element, r.order);
  const int64_t images = r.B * r.channel_blocks();
  if (!adjoint) r.row_runs = row_runs(images, r);
  const ResampleArgs args = {.resample = r,
                             .in = images_of(dense),
                             .second = {},
                             .weights = nullptr,
                             .element = static_cast<const int64_t*>(ids.const_data_ptr()),
                             .images = x.size(0),
                             .out = out.mutable_data_ptr()};
  run(adjoint ? cpu_kernels().act_adjoint : cpu_kernels().act, args, images * r.row_runs);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) { m.impl("act", TORCH_BOX(&act)); }

}  // namespace equifast::cpu
