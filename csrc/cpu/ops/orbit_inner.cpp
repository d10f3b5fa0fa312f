// orbit_inner: the inner product of each element applied to u with v.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "cpu/runtime/resample_plan.h"
#include "cpu/runtime/run.h"

namespace equifast::cpu {
namespace {

// The planes of u and v that a task reads at a time take about as much. They stay in the L2 cache while those of the
// next task are fetched.
constexpr int64_t kBlockBytes = 1 << 19;

Tensor orbit_inner(Tensor u, Tensor v, std::vector<double> table, OptionalIntegers permutation, OptionalNumbers mixing,
                   std::string padding_mode) {
  const auto sizes = check_operands(u, v);
  ResamplePlan plan(u, "u", sizes, table, permutation, mixing, padding_mode, {.shared = u.dim() == 4});
  Resample& r = plan.resample;
  check_elements(u, r.order, "u");
  check_elements(v, r.order, "v");
  if (u.numel() == 0) return zeros(u, {r.B, r.order}, accumulate_dtype(u));
  if (!r.mixing)
    r.channel_block = std::clamp<int64_t>(kBlockBytes / (2 * r.H * r.W * u.element_size()), 1, r.channel_block);
  const std::vector<Tensor> operands = plan.gatherable({u, v});
  std::vector<double> partial(r.B * r.C * r.order);
  const ResampleArgs args = {.resample = r,
                             .in = images_of(operands[0]),
                             .second = images_of(operands[1]),
                             .weights = nullptr,
                             .element = nullptr,
                             .images = r.B,
                             .out = partial.data()};
  run(cpu_kernels().orbit_inner, args, r.B * r.channel_blocks());
  return sum_over_channels(partial, u, r, r.order);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(equifast, CPU, m) { m.impl("orbit_inner", TORCH_BOX(&orbit_inner)); }

}  // namespace equifast::cpu
