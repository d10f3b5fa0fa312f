// orbit: every element applied to every image.
#include <torch/csrc/stable/library.h>

#include "cpu/runtime/resample_plan.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

Tensor orbit(Tensor x, std::optional<Tensor> weights, std::vector<double> table, OptionalIntegers permutation,
             OptionalNumbers mixing, std::string padding_mode, bool adjoint) {
  check_one_batch(x, "x");
  const auto sizes = image_sizes(x, "x");
  ResamplePlan plan(x, "x", sizes, table, permutation, mixing, padding_mode,
                    {.adjoint = adjoint, .shared = true, .by_rows = !adjoint, .keeps_format = true});
  Resample& r = plan.resample;
  Tensor out = plan.new_outputs(x, r.order * r.B);
  r.around_cache = pays_around_cache(out);
  const auto scale = dense_weights(weights, x, r.B, r.order);
  if (out.numel() == 0) return out;
  const Tensor dense = plan.readable(x);
  const int64_t images = r.B * r.channel_blocks();
  if (!adjoint) {
    // While a task makes all elements of an image, the image stays in the cache. With too few images for that, each
    // element and each run of rows is a task.
    r.all_elements = one_task_an_image(images);
    r.reuse_bases = r.reuse_bases && r.all_elements;
    if (!r.all_elements) r.row_runs = row_runs(images * r.order, r);
  }
  const ResampleArgs args = {.resample = r,
                             .in = images_of(dense),
                             .second = {},
                             .weights = data_of(scale),
                             .element = nullptr,
                             .images = r.B,
                             .out = out.mutable_data_ptr()};
  run(adjoint ? cpu_kernels().orbit_adjoint : cpu_kernels().orbit, args,
      (r.all_elements ? 1 : r.order) * images * r.row_runs);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) { m.impl("orbit", TORCH_BOX(&orbit)); }

}  // namespace equifast::cpu
